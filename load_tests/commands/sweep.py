"""`python -m load_tests sweep`: the capacity, then curves from a tenth to three times of it.

Every result is printed as soon as it is measured; the page is written at the end.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.client.requests import Target, payloads
from load_tests.commands.arguments import add_target, count, positive
from load_tests.generator.run import Load, drive
from load_tests.generator.statistics import prediction_error
from load_tests.report import pages, table
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.scenarios.sweep import Measure, Measured, Rung, Step, Sweep, SweepConfig, sweep

LOADS = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests sweep",
        description="Measure the server's capacity with a growing number of clients, then load it "
        "with shares of the capacity (Poisson arrivals, shuffled order), and plot the curves.",
    )
    add_target(options)
    options.add_argument("--deadline-ms", type=positive, default=250.0, help="limit for goodput")
    options.add_argument("--step-s", type=positive, default=10.0, help="seconds of each run")
    options.add_argument(
        "--loads",
        type=loads,
        default=LOADS,
        metavar="SHARE,…",
        help=f"shares of the capacity (default: {','.join(f'{share:g}' for share in LOADS)})",
    )
    options.add_argument("--server-pid", type=count, help="also measure this process tree")
    options.add_argument("--html", type=Path, metavar="OUT", help="write a page with the curves")
    return options


def loads(text: str) -> tuple[float, ...]:
    """Parse different positive shares, separated by commas."""
    shares = tuple(positive(part) for part in text.split(","))
    if len(set(shares)) < len(shares):
        raise argparse.ArgumentTypeError(f"duplicate share in {text}")
    return shares


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; always 0, because without an answer `sweep` raises."""
    config = SweepConfig(
        options.loads, options.step_s, options.deadline_ms, options.timeout_s, options.seed
    )
    measure = _measure(options)
    gc.freeze()  # otherwise full collections visit matplotlib's objects and delay requests
    print(table.heading())
    done = uvloop.run(sweep(measure, config, _print_rung, _print_step))
    print("\n".join(summary(done)))
    keep(options.json, command_line, result(done, config))
    pages.keep_sweep(options.html, command_line, done)
    return 0


def summary(done: Sweep) -> list[str]:
    """Return the facts that are not in the table, one per line."""
    lines = [
        f"capacity {done.capacity:.1f}/s with {done.best.name}; "
        f"{done.again.per_s:.1f}/s at the end ({done.drift:+.1%})"
    ]
    if error := prediction_error(done.predictions):
        lines.append(
            f"latency model: median absolute error {error['median_absolute_relative_error']:.1%} "
            f"of {error['count']} requests"
        )
    return lines + [f"WARNING {warning}" for warning in pages.warnings(done)]


def result(done: Sweep, config: SweepConfig) -> dict[str, object]:
    """Return the saved result: every report, but not every request."""
    return {
        "plan": asdict(config),
        "capacity_per_s": done.capacity,
        "capacity_clients": done.best.clients,
        "capacity_at_the_end_per_s": done.again.per_s,
        "drift": done.drift,
        "prediction": prediction_error(done.predictions),
        "rungs": [
            {"clients": rung.clients, "report": asdict(rung.measured.report)}
            for rung in (*done.rungs, done.again)
        ],
        "steps": [
            {
                "share": step.share,
                "offered_per_s": step.offered,
                "load": asdict(step.load),
                "report": asdict(step.measured.report),
            }
            for step in done.steps
        ],
    }


def _measure(options: argparse.Namespace) -> Measure:
    """Return a function that measures a load on the server.

    Raises ValueError and FileNotFoundError for bad options.
    """
    target = Target.parse(options.url)
    plain = payloads(options.images, target, None, options.form, options.seed)
    with_deadline = payloads(
        options.images, target, options.deadline_ms, options.form, options.seed
    )

    async def measure(load: Load) -> Measured:
        title = f"{load.rate:.0f}/s" if load.rate else f"{load.clients} clients"
        requests = plain if load.deadline_ms is None else with_deadline
        with shown(load.duration_s, title) as on_progress:
            run = await drive(
                target, requests, load, server_pid=options.server_pid, on_progress=on_progress
            )
        return Measured(run.report, run.predictions)

    return measure


def _print_rung(rung: Rung) -> None:
    print(table.line(table.of_rung(rung)), flush=True)


def _print_step(step: Step) -> None:
    print(table.line(table.of_step(step)), flush=True)
