"""`python -m load_tests chaos`: a server under host failures and hostile clients, one row each."""

import argparse
import time
from pathlib import Path

import uvloop

from load_tests.chaos.catalogue import SCENARIOS
from load_tests.chaos.setting import Outcome, Setting
from load_tests.commands.arguments import count, positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.comparison.ratios import as_table
from load_tests.errors import MeasurementFailed
from load_tests.report.json_file import keep


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests chaos",
        description="Start a server for each scenario and disturb it. Exit code 1 if one fails.",
        epilog="scenarios: " + ", ".join(SCENARIOS),
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE)
    options.add_argument("--only", metavar="NAME,…", help="run these scenarios")
    options.add_argument(
        "--seconds", type=positive, default=10.0, help="of load, in scenarios with load"
    )
    options.add_argument("--drains", type=count, default=20, help="SIGTERMs under load")
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Run one scenario after another, print and save; 1 if one fails. Raises ValueError."""
    setting = Setting(options.bundle, options.seconds, options.drains)
    outcomes: dict[str, tuple[Outcome, float]] = {}
    for name in _chosen(options.only):
        begun = time.monotonic()
        print(f"{name} …", flush=True)
        outcomes[name] = (_outcome(name, setting), time.monotonic() - begun)
        print(f"{name}: {outcomes[name][0].observed}", flush=True)
    rows = [
        [name, SCENARIOS[name][1], outcome.observed, _verdict(outcome), f"{took_s:.0f}"]
        for name, (outcome, took_s) in outcomes.items()
    ]
    print(as_table(("scenario", "expected", "observed", "", "s"), rows))
    kept: dict[str, object] = {
        name: {"observed": outcome.observed, "passed": outcome.passed, "skipped": outcome.skipped}
        for name, (outcome, _) in outcomes.items()
    }
    keep(options.json, command_line, {"scenarios": kept})
    return 0 if all(outcome.passed for outcome, _ in outcomes.values()) else 1


def _outcome(name: str, setting: Setting) -> Outcome:
    scenario, _ = SCENARIOS[name]
    try:
        return uvloop.run(scenario(setting))
    except MeasurementFailed as error:
        return Outcome(str(error).splitlines()[0], passed=False)


def _chosen(only: str | None) -> list[str]:
    names = list(SCENARIOS) if only is None else only.split(",")
    if unknown := [name for name in names if name not in SCENARIOS]:
        raise ValueError(f"unknown scenario {', '.join(unknown)}; known: {', '.join(SCENARIOS)}")
    return names


def _verdict(outcome: Outcome) -> str:
    if outcome.skipped:
        return "skipped"
    return "pass" if outcome.passed else "FAIL"
