"""`python -m load_tests run`: measure one load, print and save its report."""

import argparse
import gc
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.client.requests import Target, payloads
from load_tests.commands.arguments import add_target, count, not_negative, positive
from load_tests.generator.run import Load, drive
from load_tests.report import pages
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.report.text import as_text


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests run",
        description="Send requests at a rate that does not depend on the answers (open loop), or "
        "keep N clients busy (closed loop).",
    )
    add_target(options)
    loop = options.add_mutually_exclusive_group()
    loop.add_argument("--rate", type=positive, help="requests per second (default: 50)")
    loop.add_argument("--closed", type=count, metavar="N", help="N clients instead of a rate")
    options.add_argument("--arrivals", choices=["poisson", "constant"], default="poisson")
    options.add_argument("--duration", type=positive, default=10.0, help="seconds")
    options.add_argument("--warm-up", type=not_negative, default=0.0, metavar="S", help="seconds")
    options.add_argument(
        "--deadline-ms", type=positive, help="sent to the server; limit for goodput"
    )
    options.add_argument("--max-connections", type=count, default=512, help="open loop only")
    options.add_argument(
        "--no-keep-alive", action="store_true", help="a new connection for every request"
    )
    options.add_argument(
        "--vanish",
        type=not_negative,
        default=0.0,
        metavar="SHARE",
        help="share of clients that disconnect within 50 ms after sending",
    )
    options.add_argument(
        "--predictions",
        action="store_true",
        help="compare the server's predicted latency with the actual one; uses client CPU",
    )
    options.add_argument("--server-pid", type=count, help="also measure this process tree")
    options.add_argument("--html", type=Path, metavar="OUT", help="write a page with plots")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if nothing was answered."""
    target = Target.parse(options.url)
    load = _load(options)
    requests = payloads(options.images, target, load.deadline_ms, options.form, options.seed)
    gc.freeze()  # a full collection over all imported objects would delay this client
    with shown(load.duration_s) as on_progress:
        finished = uvloop.run(
            drive(target, requests, load, server_pid=options.server_pid, on_progress=on_progress)
        )
    print(as_text(finished.report))
    result: dict[str, object] = {"load": asdict(load), "report": asdict(finished.report)}
    if load.predictions:
        result["predictions"] = finished.predictions
    keep(options.json, command_line, result)
    pages.keep_run(options.html, command_line, finished)
    return 0 if finished.report.answered else 1


def _load(options: argparse.Namespace) -> Load:
    return Load(
        duration_s=options.duration,
        rate=None if options.closed else options.rate or 50.0,
        clients=options.closed,
        arrivals=options.arrivals,
        deadline_ms=options.deadline_ms,
        warm_up_s=options.warm_up,
        timeout_s=options.timeout_s,
        max_connections=options.max_connections,
        vanish=options.vanish,
        seed=options.seed,
        keep_alive=not options.no_keep_alive,
        predictions=options.predictions,
    )
