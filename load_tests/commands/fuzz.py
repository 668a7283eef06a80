"""`python -m load_tests fuzz`: mutated images and HTTP against our own server."""

import argparse
from pathlib import Path

import uvloop

from load_tests.commands.arguments import count, not_negative, positive
from load_tests.fuzz.campaign import Campaign, Ledger, Plan
from load_tests.fuzz.comparison import Comparison
from load_tests.fuzz.failures import Failures
from load_tests.fuzz.server import launch
from load_tests.fuzz.summary import as_record, as_text, leaks
from load_tests.report.json_file import keep

BUNDLE = Path("models/bundles/efficientnet-lite0/1")
_DEADLINE_SHARE = 0.8  # of the limit for one answer
_UNLIMITED = 10**9  # mutants, so that only time bounds the campaign


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests fuzz",
        description="Start the server, send seeds of every format and their mutants, and check "
        "each answer. Exit code 1 if a rule is violated; the inputs are saved in --failures.",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the demo bundle")
    options.add_argument("--seconds", type=positive, default=60.0, help="time for mutants")
    options.add_argument("--mutants", type=count, default=_UNLIMITED, help="at most")
    options.add_argument("--seed", type=int, default=0, help="the same seed gives the same mutants")
    options.add_argument("--in-flight", type=count, default=8)
    options.add_argument(
        "--http-share", type=not_negative, default=0.1, help="share of damaged HTTP requests"
    )
    options.add_argument(
        "--compare-share",
        type=not_negative,
        default=0.05,
        help="share of answers compared with the reference",
    )
    options.add_argument("--slow-s", type=positive, default=10.0, help="limit for one answer")
    options.add_argument(
        "--image-mb", type=positive, default=600.0, help="memory limit for one image"
    )
    options.add_argument(
        "--server-mb", type=positive, default=5000.0, help="memory at which the server is stopped"
    )
    options.add_argument("--failures", type=Path, default=Path("build/fuzz"), metavar="DIR")
    options.add_argument("--replay", type=Path, metavar="FILE", help="send one saved input again")
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Run the campaign, print and save; 1 if a rule was violated."""
    plan = _plan(options)
    # Long enough for several large images at once, so that a 503 or 504 is no ordinary overload.
    deadline_ms = str(int(_DEADLINE_SHARE * 1000 * options.slow_s))
    env = {"TIDEGATE_REVIEW_DIR": "review", "TIDEGATE_DEADLINE_MS": deadline_ms}
    start = launch(options.bundle, env)
    failures = Failures(options.failures)
    if options.replay is not None:
        return _replay(Campaign(plan, start, failures, Comparison(None, failures)), options)
    comparison = Comparison(options.bundle, failures)
    campaign = Campaign(plan, start, failures, comparison)
    try:
        ledger: Ledger = uvloop.run(campaign.run())
    finally:
        comparison.close()
    for violation in leaks(ledger):
        failures.add(violation, b"", "the whole campaign")
    print(as_text(ledger, failures, comparison))
    keep(options.json, command_line, as_record(plan, ledger, failures, comparison))
    return 1 if failures.by_rule else 0


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        seconds=options.seconds,
        mutants=options.mutants,
        seed=options.seed,
        in_flight=options.in_flight,
        http_share=options.http_share,
        compare_share=options.compare_share,
        slow_s=options.slow_s,
        image_mb=options.image_mb,
        server_mb=options.server_mb,
    )


def _replay(campaign: Campaign, options: argparse.Namespace) -> int:
    found = uvloop.run(campaign.replay(options.replay.read_bytes()))
    for violation in found:
        print(f"{violation.rule}: {violation.detail}")
    print(f"{len(found)} violations")
    return 1 if found else 0
