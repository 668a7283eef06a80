"""`python -m load_tests compare`: our server, its peers and the bare loop in one table."""

import argparse
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.commands.arguments import count, positive
from load_tests.comparison.compare import Plan, compare
from load_tests.comparison.ratios import standings, tables
from load_tests.peers.catalogue import ENVIRONMENTS, PEERS
from load_tests.peers.plain_classifier import read_recipe
from load_tests.peers.versions import versions
from load_tests.report.json_file import keep


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests compare",
        description="Start our server, the selected peers and the bare loop, load them in turn "
        "with the same images, and print the medians and their ratios to the bare loop. Servers "
        "that are not being measured are stopped with SIGSTOP.",
    )
    add_contestants(options)
    options.add_argument(
        "--images",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="folder of images; can be repeated",
    )
    options.add_argument(
        "--concurrency", type=counts, default=(8, 32, 64), metavar="N,N", help="closed-loop clients"
    )
    options.add_argument("--rounds", type=count, default=5)
    options.add_argument("--round-s", type=positive, default=5.0, help="seconds of each load")
    options.add_argument(
        "--overload",
        type=positive,
        metavar="RATE",
        help="also send RATE requests per second with a deadline of 250 ms",
    )
    options.add_argument(
        "--batch", type=count, help="largest batch of the peers (default: each peer's setting)"
    )
    options.add_argument(
        "--one-at-a-time", action="store_true", help="run only one server at a time"
    )
    options.add_argument(
        "--also",
        type=Path,
        metavar="DIR",
        help="also measure a second server of ours with this bundle of the model in another "
        "precision, whose answers are not compared with the loop's",
    )
    options.add_argument(
        "--also-engine",
        default="onnx-cpu",
        metavar="NAME",
        help="its TIDEGATE_ENGINE (default: %(default)s)",
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--json", type=Path, metavar="OUT", help="save the result and the hardware"
    )
    return options


def add_contestants(options: argparse.ArgumentParser) -> None:
    """Add the options for the model in both forms and for the peers."""
    options.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="plain model, from `tidegate export-plain`",
    )
    options.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="bundle of the same model"
    )
    options.add_argument(
        "--peers",
        type=names,
        default=tuple(PEERS),
        metavar="NAME,NAME",
        help=f"from {', '.join(PEERS)} (default: all); an empty list selects none",
    )
    options.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR")


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save. Raises MeasurementFailed, FileNotFoundError or ValueError."""
    check_contestants(options)
    plan = Plan(
        model=options.model,
        bundle=options.bundle,
        images=tuple(options.images),
        peers=options.peers,
        environments=options.environments,
        concurrency=options.concurrency,
        rounds=options.rounds,
        round_s=options.round_s,
        overload_per_s=options.overload,
        batch=options.batch,
        one_at_a_time=options.one_at_a_time,
        seed=options.seed,
        also=options.also,
        also_engine=options.also_engine,
    )
    result = uvloop.run(compare(plan, log))
    found = standings(result.measured)
    print(tables(found))
    print(
        "\ncold start s: " + ", ".join(f"{n} {min(s):.1f}" for n, s in result.cold_start_s.items())
    )
    for name, reason in result.refused.items():
        print(f"not measured: {name}: {reason}")
    kept: dict[str, object] = {
        "peers": versions([n for n in plan.peers if n not in result.refused], plan.environments),
        "refused": result.refused,
        "cold_start_s": result.cold_start_s,
        "standings": [asdict(standing) for standing in found],
        "measured": [asdict(m) for m in result.measured],
    }
    keep(options.json, command_line, kept)
    return 0


def check_contestants(options: argparse.Namespace) -> None:
    """Check the model and the bundle before a start; raises FileNotFoundError or ValueError."""
    read_recipe(options.model)
    if not (options.bundle / "manifest.json").is_file():
        raise FileNotFoundError(f"no bundle at {options.bundle}")


def names(text: str) -> tuple[str, ...]:
    """Parse names of peers, separated by commas."""
    chosen = tuple(name for name in text.split(",") if name)
    for name in chosen:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    return chosen


def counts(text: str) -> tuple[int, ...]:
    """Parse integers of at least 1, separated by commas."""
    return tuple(count(word) for word in text.split(","))


def log(line: str) -> None:
    """Print a line of progress immediately."""
    print(line, flush=True)
