"""`python -m load_tests fronts`: what front ends bring, with a fake engine that takes no CPU."""

import argparse
import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path

import uvloop

from load_tests.client.requests import Target, requests_of
from load_tests.client.synthetic_images import Picture, generated
from load_tests.commands.arguments import count, positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.errors import MeasurementFailed
from load_tests.fronts.fakes import FOLDER, with_fakes
from load_tests.fronts.profile import profiled, shares
from load_tests.fronts.replacement import findings_of_replacements, replaced
from load_tests.fronts.shapes import (
    Profile,
    Shape,
    Window,
    findings_of,
    findings_of_floods,
    findings_of_observed,
    findings_of_parts,
    findings_of_profiles,
)
from load_tests.fuzz import wire
from load_tests.fuzz.memory import until_idle
from load_tests.fuzz.server import SERVE, launch
from load_tests.generator.loops import Outcome
from load_tests.generator.run import Load, drive
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.scenarios.findings import Finding, as_lines
from load_tests.server.process_tree import descendants
from load_tests.server.start import ROOT, Started, running
from load_tests.server.usage import usage

_READY = wire.get(b"/readyz")
_IMAGES = 16
_ALONE_S = 2.0
_FLOOD_S = 3.0
_OBSERVED_IN_FLIGHT = 48  # batches of 16 on three slots
_WARM_UP_S = 1.5
_IDLE_S = 30.0


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests fronts",
        description="Compare one process with front ends, in turns. The engine is a fake that "
        "takes time but no CPU. Exit code 1 if an aim is missed.",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE, help="what is served")
    options.add_argument(
        "--front-ends",
        type=count,
        nargs="+",
        default=[1, 2],
        help="besides one process (default: 1 2)",
    )
    options.add_argument(
        "--decode", action="store_true", help="decode the images; otherwise nothing is decoded"
    )
    options.add_argument(
        "--clients", type=count, default=32, help="requests at a time (default: %(default)s)"
    )
    options.add_argument(
        "--rounds", type=count, default=3, help="windows of each shape (default: %(default)s)"
    )
    options.add_argument(
        "--window-s", type=positive, default=5.0, help="length of a window (default: %(default)s)"
    )
    options.add_argument(
        "--profile",
        action="store_true",
        help="measure one process only, and the process of the engine in a flood, and which part "
        "of the service its event loop spends its time in (needs py-spy)",
    )
    options.add_argument(
        "--before",
        metavar="COMMAND",
        help="with --profile: the command that starts another server, which takes turns",
    )
    options.add_argument(
        "--kill",
        action="store_true",
        help="measure only how soon a front end that was killed under load is replaced",
    )
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if an aim is missed."""
    measure = _profile if options.profile else _kill if options.kill else _measure
    findings = uvloop.run(measure(options, options.bundle.resolve()))
    print(as_lines(findings))
    keep(options.json, command_line, {"findings": [asdict(finding) for finding in findings]})
    return 1 if any(finding.met is False for finding in findings) else 0


async def _measure(options: argparse.Namespace, bundle: Path) -> list[Finding]:
    pictures = list(generated(_IMAGES))
    shapes = [Shape(0), *map(Shape, options.front_ends)]
    for _ in range(options.rounds):
        for shape in shapes:
            async with _served(options, shape) as server:
                await until_idle(server.main_pid, _IDLE_S)  # a front end is started ahead
                await _drive(server, pictures, Load(_WARM_UP_S, clients=options.clients))
                shape.alone += (await _drive(server, pictures, Load(_ALONE_S, clients=1)))[0]
                load = Load(options.window_s, clients=options.clients)
                shape.add(*await _drive(server, pictures, load))
    floods, observed = [], []
    for _ in range(options.rounds):
        floods.append(await _flood(bundle, options.clients))
        observed.append(await _flood(bundle, _OBSERVED_IN_FLIGHT, "observed"))
    return [
        *findings_of(shapes, "decoding" if options.decode else "without decoding"),
        *findings_of_floods(floods, options.clients),
        *findings_of_observed(observed, _OBSERVED_IN_FLIGHT),
    ]


async def _profile(options: argparse.Namespace, bundle: Path) -> list[Finding]:
    pictures = list(generated(_IMAGES))
    sides: dict[str, tuple[Profile, tuple[str, ...]]] = {"": (Profile(), SERVE)}
    if options.before is not None:
        sides["before, "] = Profile(), tuple(shlex.split(options.before))
    for _ in range(options.rounds):
        for profile, command in sides.values():
            async with _served(options, profile.shape, command) as server:
                await _profile_once(options, server, pictures, profile)
    measured = {name: profile for name, (profile, _) in sides.items()}
    floods = [await _profiled_flood(bundle) for _ in range(options.rounds)]
    return [
        *findings_of_profiles(measured),
        *findings_of_observed([flood for flood, _ in floods], _OBSERVED_IN_FLIGHT),
        *findings_of_parts(floods),
    ]


async def _profile_once(
    options: argparse.Namespace, server: Started, pictures: list[Picture], profile: Profile
) -> None:
    await _drive(server, pictures, Load(_WARM_UP_S, clients=options.clients))
    load = Load(options.window_s, clients=options.clients)

    async def drive_it() -> None:
        profile.shape.add(*await _drive(server, pictures, load))

    stacks = await profiled(server.main_pid, options.window_s, drive_it)
    profile.shares.append(shares(stacks))


async def _kill(options: argparse.Namespace, _: Path) -> list[Finding]:
    pictures = list(generated(_IMAGES))
    shape, found = Shape(options.front_ends[-1]), []
    load = Load(options.window_s, clients=options.clients, warm_up_s=_WARM_UP_S)
    for _round in range(options.rounds):
        async with _served(options, shape) as server:
            await until_idle(server.main_pid, _IDLE_S)
            target = Target.parse(server.url)
            requests = requests_of(pictures, target, None)
            found.append(await replaced(server, drive(target, requests, load), requests[0]))
    return findings_of_replacements(found, options.clients, shape.front_ends)


async def _flood(bundle: Path, in_flight: int, *observed: str) -> dict[str, float]:
    """Return how many images the process of the engine takes without HTTP, and what they cost."""
    return await _result(await _started_flood(bundle, in_flight, *observed))


async def _profiled_flood(bundle: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the same with notes, and the parts of the service in its event loop's time."""
    process = await _started_flood(bundle, _OBSERVED_IN_FLIGHT, "observed")
    found: list[dict[str, float]] = []

    async def drive_it() -> None:
        found.append(await _result(process))

    assert process.stdout is not None  # noqa: S101 - narrows for the type checker
    await process.stdout.readline()
    stacks = await profiled(process.pid, _FLOOD_S - 1, drive_it)
    return found[0], shares(stacks)


async def _started_flood(
    bundle: Path, in_flight: int, *observed: str
) -> asyncio.subprocess.Process:
    command = [FOLDER / "flood.py", bundle, _FLOOD_S, in_flight, *observed]
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *map(str, command),
        env={**os.environ, "PYTHONPATH": f"{FOLDER}:{ROOT}"},
        stdout=asyncio.subprocess.PIPE,
    )


async def _result(process: asyncio.subprocess.Process) -> dict[str, float]:
    output, _ = await process.communicate()
    if not output.endswith(b"}\n"):
        raise MeasurementFailed("the flood ended without a result")
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def _served(
    options: argparse.Namespace, shape: Shape, command: Sequence[str] = SERVE
) -> AbstractAsyncContextManager[Started]:
    env = {
        **with_fakes(decode=options.decode),
        "TIDEGATE_FRONT_ENDS": str(shape.front_ends or -1),
        "TIDEGATE_LOG_LEVEL": "info",
        "TIDEGATE_LOG_FORMAT": "json",
    }
    start = launch(options.bundle, env, command=command)
    return running(start.command, start.env, start.url, _READY)


async def _drive(
    server: Started, pictures: list[Picture], load: Load
) -> tuple[list[Outcome], Window]:
    target = Target.parse(server.url)
    before = _cpu(server)
    started = time.monotonic()
    with shown(load.duration_s) as on_progress:
        done = await drive(
            target, requests_of(pictures, target, None), load, on_progress=on_progress
        )
    seconds, after = time.monotonic() - started, _cpu(server)
    engine_s, loop_s, fronts_s = (b - a for a, b in zip(before, after, strict=True))
    return done.outcomes, Window(seconds, engine_s, loop_s, fronts_s)


def _cpu(server: Started) -> tuple[float, float, float]:
    """Return the CPU seconds of the first process, of its event loop, and of its descendants."""
    whole = usage(server.main_pid)
    others = sum(usage(pid).own_cpu_s for pid in descendants(server.main_pid))
    return whole.own_cpu_s, whole.main_thread_cpu_s, others
