"""`python -m load_tests hostile`: the effect of a share of hostile images on normal clients."""

import argparse
import math
from pathlib import Path

import uvloop

from load_tests.chaos.hostile_share import Phase, missed, phases
from load_tests.chaos.setting import Setting, served
from load_tests.commands.arguments import positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.comparison.ratios import as_table
from load_tests.fuzz.worst import WORST, worst
from load_tests.report.json_file import keep


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests hostile",
        description="Normal clients at a constant rate, with hostile images during the middle two "
        "thirds of the time. Exit code 1 if a limit is exceeded.",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE)
    options.add_argument("--seconds", type=positive, default=120.0)
    options.add_argument("--good-rate", type=positive, default=20.0, help="per second")
    options.add_argument("--hostile-share", type=positive, default=0.05, help="of all requests")
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Run the phases, print and save; 1 if a limit is exceeded."""
    if options.hostile_share >= 1:
        raise ValueError("--hostile-share must be below 1")
    done = uvloop.run(_phases(options))
    found = missed(done)
    heads = ("phase", "sent", "goodput", "p50 ms", "p99 ms", "statuses", "errors", "memory MB")
    print(as_table(heads, [_row(phase) for phase in done]))
    print("all limits met" if not found else "limits exceeded: " + "; ".join(found))
    kept = {
        phase.name: {
            "statuses": dict(phase.traffic.statuses),
            "p50_ms": _finite(phase.traffic.quantile_ms(0.5)),
            "p99_ms": _finite(phase.traffic.quantile_ms(0.99)),
            "resident_mb": phase.resident_mb,
        }
        for phase in done
    }
    keep(options.json, command_line, {"phases": kept, "missed": found})
    return 1 if found else 0


async def _phases(options: argparse.Namespace) -> list[Phase]:
    images = [worst(name) for name in WORST]
    async with served(Setting(options.bundle, options.seconds, 0)) as server:
        return await phases(
            server, images, options.seconds, options.good_rate, options.hostile_share
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no infinity


def _row(phase: Phase) -> list[str]:
    traffic = phase.traffic
    return [
        phase.name,
        str(traffic.sent),
        f"{traffic.goodput:.1%}",
        f"{traffic.quantile_ms(0.5):.0f}",
        f"{traffic.quantile_ms(0.99):.0f}",
        " ".join(f"{status}×{n}" for status, n in sorted(traffic.statuses.items())),
        str(phase.errors),
        f"{phase.resident_mb:.0f}",
    ]
