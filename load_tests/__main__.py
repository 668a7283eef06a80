"""`python -m load_tests run | overhead`: read the arguments, measure, print, keep."""

import argparse
import asyncio
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from load_tests.arrivals import constant, poisson
from load_tests.client import Pool
from load_tests.generate import Outcome, closed_loop, open_loop
from load_tests.images import Target, build_requests, find_images, shuffled_forever
from load_tests.machine import describe_machine
from load_tests.overhead import MeasurementFailed, Plan, measure, summary
from load_tests.process import usage
from load_tests.report import Report, Spent, as_text, summarise


def main(argv: list[str] | None = None) -> int:
    """Exit 0 when something was measured, 1 when nothing was answered, 2 for bad arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "load_tests", *arguments])
    try:
        return _run(args, command) if args.command == "run" else _overhead(args, command)
    except (FileNotFoundError, ProcessLookupError, ValueError) as error:
        parser.error(str(error))
    except MeasurementFailed as error:
        print(f"nothing measured: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace, command: str) -> int:
    report = asyncio.run(_load(args))
    print(as_text(report))
    _keep(args.json, command, {"report": asdict(report)})
    return 0 if report.answered else 1


async def _load(args: argparse.Namespace) -> Report:
    target = Target.parse(args.url)
    payloads = build_requests(find_images(args.images), target, args.deadline_ms)
    requests = shuffled_forever(payloads, args.seed)
    pool = Pool(target.host, target.port, args.closed or args.max_connections)
    before = usage(args.server_pid) if args.server_pid else None
    cpu, start = time.process_time(), time.monotonic()
    try:
        outcomes = await _outcomes(args, pool, requests)
    finally:
        pool.close()
    spent = Spent(
        elapsed_s=time.monotonic() - start,
        client_cpu_s=time.process_time() - cpu,
        connections_opened=pool.opened,
        server=usage(args.server_pid).since(before) if before else None,
    )
    return summarise(outcomes, spent, args.deadline_ms and args.deadline_ms / 1e3)


async def _outcomes(
    args: argparse.Namespace, pool: Pool, requests: Iterator[bytes]
) -> list[Outcome]:
    if args.closed:
        return await closed_loop(pool, requests, args.closed, args.duration, args.timeout_s)
    schedule = (
        poisson(args.rate, args.duration, args.seed)
        if args.arrivals == "poisson"
        else constant(args.rate, args.duration)
    )
    return await open_loop(pool, requests, schedule, args.timeout_s)


def _overhead(args: argparse.Namespace, command: str) -> int:
    if not args.model.is_file():
        raise FileNotFoundError(f"no model at {args.model}")
    plan = Plan(
        model=args.model,
        target=Target.parse(args.url),
        server_pid=args.server_pid,
        images=args.images,
        clients=args.concurrency,
        processes=args.processes,
        rounds=args.rounds,
        round_s=args.round_s,
        timeout_s=args.timeout_s,
        seed=args.seed,
    )
    rounds = asyncio.run(measure(plan))
    medians = summary(rounds)
    print("\n".join(f"{name:<18}{value:.3f}" for name, value in medians.items()))
    _keep(args.json, command, {"summary": medians, "rounds": [asdict(r) for r in rounds]})
    return 0


def _keep(path: Path | None, command: str, result: dict[str, object]) -> None:
    if path is None:
        return
    record = {
        "command": command,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        **result,
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="open-loop load at a rate, or N closed-loop clients")
    _common(run)
    run.add_argument("--rate", type=_positive, default=50.0, help="requests per second (open loop)")
    run.add_argument("--arrivals", choices=["poisson", "constant"], default="poisson")
    run.add_argument("--closed", type=_count, metavar="N", help="N clients instead of a rate")
    run.add_argument("--duration", type=_positive, default=10.0, help="seconds")
    run.add_argument("--deadline-ms", type=_positive, help="sent to the server; bounds goodput")
    run.add_argument("--max-connections", type=_count, default=512, help="open loop only")
    run.add_argument("--server-pid", type=_count, help="also measure this process tree")

    overhead = commands.add_parser("overhead", help="the server against a bare inference loop")
    _common(overhead)
    overhead.add_argument("--model", type=Path, required=True, help="the bundle's model.onnx")
    overhead.add_argument("--server-pid", type=_count, required=True)
    overhead.add_argument("--concurrency", type=_count, default=32)
    overhead.add_argument("--processes", type=_count, default=2, help="of the bare loop")
    overhead.add_argument("--rounds", type=_count, default=5)
    overhead.add_argument("--round-s", type=_positive, default=5.0)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default="http://127.0.0.1:8000/classify")
    parser.add_argument("--images", type=Path, required=True, help="folder, searched recursively")
    parser.add_argument("--timeout-s", type=_positive, default=10.0, help="from the intended time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="keep the result with its machine")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
