"""`python -m load_tests bad-input`: how our server and its peers handle broken uploads."""

import argparse
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.client.requests import find_images
from load_tests.commands.arguments import count
from load_tests.commands.compare import add_contestants, check_contestants
from load_tests.comparison.bad_input import IN_FLIGHT, LEFT_AFTER_S, OTHERS, Behaviour, observe
from load_tests.comparison.compare import start_of
from load_tests.comparison.ratios import as_table
from load_tests.errors import MeasurementFailed
from load_tests.peers.catalogue import MAX_BATCH, OURS
from load_tests.peers.versions import versions
from load_tests.report.json_file import keep

_HEADS = (
    "server",
    "truncated",
    "text",
    "empty",
    f"valid of {OTHERS}",
    "broken one",
    "bomb",
    "s",
    "+MB",
    "serves",
    f"of {IN_FLIGHT}",
    "exit s",
    "left",
)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests bad-input",
        description="Send each server a truncated JPEG by itself and together with valid ones, a "
        "text, an empty body and a PNG of 13,000 × 13,000 pixels; then send SIGTERM with requests "
        "in flight.",
    )
    add_contestants(options)
    options.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="folder of valid JPEGs"
    )
    options.add_argument(
        "--batch", type=count, default=MAX_BATCH, help="largest batch of the peers"
    )
    options.add_argument(
        "--json", type=Path, metavar="OUT", help="save the result and the hardware"
    )
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Test one server after another, print and save. Raises FileNotFoundError or ValueError."""
    check_contestants(options)
    good = [p for p in find_images(options.images) if p.suffix.lower() in (".jpg", ".jpeg")]
    if not good:
        raise FileNotFoundError(f"no JPEG below {options.images}")
    seen: list[Behaviour] = []
    refused: dict[str, str] = {}
    for name in (OURS, *options.peers):
        print(f"testing {name}", flush=True)
        try:
            start = start_of(
                name, options.model, options.bundle, options.environments, options.batch
            )
            seen.append(uvloop.run(observe(start, good)))
        except (MeasurementFailed, FileNotFoundError) as error:
            refused[name] = str(error)
    print(as_table(_HEADS, [_row(behaviour) for behaviour in seen]))
    print(f"left: processes {LEFT_AFTER_S:.0f} s after SIGTERM; –: no answer, or no exit")
    for name, reason in refused.items():
        print(f"not measured: {name}: {reason}")
    kept: dict[str, object] = {
        "peers": versions([b.name for b in seen if b.name != OURS], options.environments),
        "refused": refused,
        "behaviour": [asdict(behaviour) for behaviour in seen],
    }
    keep(options.json, command_line, kept)
    return 0 if seen else 1


def _row(b: Behaviour) -> list[str]:
    return [
        b.name,
        *(_or_dash(status) for status in (b.truncated, b.text, b.empty)),
        str(b.company_answered),
        _or_dash(b.truncated_in_company),
        _or_dash(b.bomb),
        f"{b.bomb_s:.2f}",
        f"{b.bomb_growth_mb:.0f}",
        "yes" if b.serves_after else "no",
        str(b.answered_after_sigterm),
        "–" if b.exit_s is None else f"{b.exit_s:.1f}",
        str(b.left),
    ]


def _or_dash(status: int | None) -> str:
    return "–" if status is None else str(status)
