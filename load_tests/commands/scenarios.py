"""`python -m load_tests scenarios`: named scenarios, each measured against its aims."""

import argparse
import functools
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import uvloop

from load_tests.client.requests import Target, payloads
from load_tests.commands.arguments import add_target, count, positive
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.scenarios import neighbours, overload, soak, steady
from load_tests.scenarios.findings import as_lines
from load_tests.scenarios.setting import Result, Setting

NAMES = ("light", "eighty", "overload", "burst", "slow", "vanish", "soak")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests scenarios",
        description="Measure the capacity, then run each scenario and print its results with their "
        "aims. A missed aim does not change the exit code, because a shared machine can cause it.",
    )
    add_target(options)
    options.add_argument("--server-pid", type=count, required=True, help="process id of the server")
    options.add_argument(
        "--only",
        type=_names,
        default=NAMES,
        metavar="NAMES",
        help=f"from {','.join(NAMES)} (default: all)",
    )
    options.add_argument(
        "--capacity", type=positive, metavar="R", help="images per second (default: measured)"
    )
    options.add_argument(
        "--duration",
        type=positive,
        metavar="S",
        help=f"seconds of each overload (default: {overload.DURATION_S:.0f}) and of the soak "
        f"(default: {soak.DURATION_S:.0f})",
    )
    options.add_argument(
        "--rounds",
        type=count,
        default=neighbours.ROUNDS,
        help="pairs of windows, without and with a disturbance (default: %(default)s)",
    )
    options.add_argument(
        "--window-s",
        type=positive,
        default=neighbours.WINDOW_S,
        help="length of a window (default: %(default)s)",
    )
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Run the selected scenarios one after the other, print and save."""
    target = Target.parse(options.url)
    requests = functools.cache(
        lambda deadline_ms: payloads(
            options.images, target, deadline_ms, options.form, options.seed
        )
    )
    setting = Setting(
        target,
        options.server_pid,
        requests,
        shown,
        capacity=options.capacity,
        timeout_s=options.timeout_s,
        seed=options.seed,
    )
    kept = uvloop.run(_measure(options, setting))
    keep(options.json, command_line, {"scenarios": kept})
    return 0


async def _measure(options: argparse.Namespace, setting: Setting) -> dict[str, object]:
    capacity = await steady.capacity(setting)
    print(f"capacity {capacity:.1f}/s" + (" (given)" if setting.capacity else ""), flush=True)
    kept: dict[str, object] = {"capacity": capacity}
    for name, scenario in _scenarios(options, setting, capacity).items():
        if name in options.only:
            result = await scenario()
            print(f"\n{name}\n{as_lines(result.findings)}", flush=True)
            kept[name] = _kept(result)
    return kept


def _scenarios(
    options: argparse.Namespace, setting: Setting, capacity: float
) -> dict[str, Callable[[], Awaitable[Result]]]:
    windows = (options.rounds, options.window_s)
    return {
        "light": lambda: steady.light(setting),
        "eighty": lambda: steady.eighty(setting, capacity),
        "overload": lambda: overload.overload(setting, options.duration or overload.DURATION_S),
        "burst": lambda: neighbours.during_bursts(setting, capacity, *windows),
        "slow": lambda: neighbours.during_slow_uploads(setting, capacity, *windows),
        "vanish": lambda: neighbours.during_vanishing_clients(setting, capacity, *windows),
        "soak": lambda: soak.soak(setting, capacity, options.duration or soak.DURATION_S),
    }


def _kept(result: Result) -> dict[str, object]:
    return {
        "findings": [asdict(finding) for finding in result.findings],
        "runs": {
            name: {"load": asdict(run.load), "report": asdict(run.report)}
            for name, run in result.runs.items()
        },
        "samples": [asdict(sample) for sample in result.samples],
    }


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(
            f"unknown scenario {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}"
        )
    return names
