"""`python -m load_tests reload`: the effect of reloads on requests."""

import argparse
import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import asdict
from functools import partial
from pathlib import Path

import uvloop

from load_tests.client.requests import Target
from load_tests.commands.arguments import positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.commands.two_versions import add_second, name_of_second
from load_tests.comparison.ratios import as_table
from load_tests.generator.run import Load, Run, drive
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.rollout.models_folder import Log
from load_tests.rollout.preparation import OTHER, STABLE, Prepared, prepare
from load_tests.rollout.reloads import ENV, Measured, Reload, change_versions, measured
from load_tests.rollout.windows import Tally
from load_tests.scenarios.findings import as_lines
from load_tests.scenarios.setting import Setting
from load_tests.scenarios.steady import capacity
from load_tests.server.start import Started

_LOADING_S = 60.0


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests reload",
        description="Start a server with two versions of a model, load it, and change the stable "
        "version again and again. Exit code 1 if a limit is exceeded.",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE, help="becomes version 1")
    add_second(options, "version 2")
    options.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs (default: the repository's)"
    )
    options.add_argument("--seconds", type=positive, default=600.0)
    options.add_argument("--every", type=positive, default=60.0, help="seconds between changes")
    options.add_argument(
        "--rate-share",
        type=positive,
        default=0.5,
        help="of the slower version's capacity, which is measured first",
    )
    options.add_argument("--rate", type=positive, metavar="R", help="per second, instead of that")
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if a limit is exceeded."""
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        prepared = prepare(options.bundle, options.second, Path(folder), options.images)
        result, kept = uvloop.run(_measure(options, prepared))
    heads = ("windows", "requests", "failed", "p50 ms", "p99 ms")
    tallies = {"reload": result.inside, "control": result.control, "whole run": result.anywhere}
    print(as_table(heads, [_row(name, one) for name, one in tallies.items()]))
    print(as_lines(result.findings))
    for warning in result.warnings:
        print(f"warning: {warning}")
    keep(options.json, command_line, {**kept, **asdict(result)})
    return 1 if any(finding.met is False for finding in result.findings) else 0


async def _measure(
    options: argparse.Namespace, prepared: Prepared
) -> tuple[Measured, dict[str, object]]:
    known = await prepared.known_answers()
    async with prepared.models.served(ENV) as started:
        target = Target.parse(started.url)
        rate = options.rate or options.rate_share * await _capacity(prepared, started)
        checker = prepared.checker(target, known)
        with shown(options.seconds, f"{rate:.0f} per second") as on_progress:
            load = drive(
                target,
                prepared.requests(target),
                Load(options.seconds, rate=rate),
                server_pid=started.main_pid,
                on_progress=on_progress,
                on_response=checker.note,
            )
            changes = change_versions(prepared.models, started, options.every, options.seconds)
            run, reloads = await _both(load, changes)
    result = measured(run, reloads, checker)
    kept: dict[str, object] = {
        "second": name_of_second(options.second),
        "rate": rate,
        "every_s": options.every,
        "reloads": [
            {"version": one.version, "took_s": one.window.length_s, "after": asdict(one.after)}
            for one in reloads
        ],
        "wrong_answers": checker.wrong,
        "load": asdict(run.report),
    }
    return result, kept


async def _capacity(prepared: Prepared, started: Started) -> float:
    """Return the images per second of the slower version; version 1 is stable afterwards."""
    target = Target.parse(started.url)
    setting = Setting(target, started.main_pid, partial(prepared.requests, target), shown)
    found: list[float] = []
    for version in (OTHER, STABLE):
        log = Log(started.log)
        prepared.models.serve(version)
        await log.message(f"reload of {prepared.models.model}: loaded", timeout_s=_LOADING_S)
        found.append(await capacity(setting))
    return min(found)


async def _both(
    load: Coroutine[None, None, Run], changes: Coroutine[None, None, list[Reload]]
) -> tuple[Run, list[Reload]]:
    """Await both; if one fails, the other is cancelled."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running, changing = tasks.create_task(load), tasks.create_task(changes)
    except ExceptionGroup as failed:  # the command reports one failure, not a group
        raise failed.exceptions[0] from None
    return running.result(), changing.result()


def _row(name: str, tally: Tally) -> list[str]:
    failed = " ".join(f"{what}×{n}" for what, n in tally.failures.items()) or "0"
    times = ("–" if ms is None else f"{ms:.1f}" for ms in (tally.p50_ms, tally.p99_ms))
    return [name, str(tally.requests), failed, *times]
