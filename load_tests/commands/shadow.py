"""`python -m load_tests shadow`: the effect of a shadow on live traffic."""

import argparse
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import uvloop

from load_tests.client.requests import Target
from load_tests.commands.arguments import count, positive
from load_tests.commands.fuzz import BUNDLE
from load_tests.commands.two_versions import add_second, name_of_second
from load_tests.generator.run import Load, drive
from load_tests.report.json_file import keep
from load_tests.report.progress_bar import shown
from load_tests.rollout.preparation import OTHER, STABLE, Prepared, prepare
from load_tests.rollout.shadow import Arm, of_goodput, of_latency, order, shadowed, switch
from load_tests.scenarios.findings import Finding, as_lines
from load_tests.scenarios.overload import DEADLINE_MS
from load_tests.scenarios.setting import Setting
from load_tests.scenarios.steady import capacity
from load_tests.server.start import Started

BELOW = {"50 %": 0.5, "80 %": 0.8}  # of the capacity
BEYOND, FACTOR = "2 × capacity", 2.0
LOADS = (*BELOW, BEYOND)


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests shadow",
        description="Compare live traffic in interleaved windows with and without a shadow. Exit "
        "code 1 if a limit is exceeded.",
    )
    options.add_argument("--bundle", type=Path, default=BUNDLE, help="the stable version")
    add_second(options, "the shadow")
    options.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs (default: the repository's)"
    )
    options.add_argument(
        "--share", type=positive, default=0.2, help="of the images (default: %(default)s)"
    )
    options.add_argument(
        "--rounds", type=count, default=4, help="pairs of windows per load (default: %(default)s)"
    )
    options.add_argument(
        "--window-s", type=positive, default=30.0, help="length of a window (default: %(default)s)"
    )
    options.add_argument(
        "--loads",
        nargs="+",
        choices=LOADS,
        default=LOADS,
        metavar="LOAD",
        help=f"of {', '.join(LOADS)} (default: all)".replace("%", "%%"),
    )
    options.add_argument(
        "--capacity", type=positive, metavar="R", help="per second, instead of measuring it"
    )
    options.add_argument("--json", type=Path, metavar="OUT", help="save the result")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Measure, print and save; 1 if a limit is exceeded."""
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        prepared = prepare(options.bundle, options.second, Path(folder), options.images)
        measured, findings = uvloop.run(_measure(options, prepared))
    print(as_lines(findings))
    kept = {
        "second": name_of_second(options.second),
        "share": options.share,
        "capacity": measured,
        "findings": [asdict(finding) for finding in findings],
    }
    keep(options.json, command_line, kept)
    return 1 if any(finding.met is False for finding in findings) else 0


async def _measure(options: argparse.Namespace, prepared: Prepared) -> tuple[float, list[Finding]]:
    async with prepared.models.served() as started:
        target = Target.parse(started.url)
        # Loaded once; afterwards it stays in memory, with and without being the shadow.
        await switch(prepared.models, started, STABLE, OTHER, options.share)
        await switch(prepared.models, started, STABLE, "", 0.0)
        requests = partial(prepared.requests, target)
        most = await capacity(
            Setting(target, started.main_pid, requests, shown, capacity=options.capacity)
        )
        findings: list[Finding] = []
        for name, share in BELOW.items():
            if name not in options.loads:
                continue
            load = Load(options.window_s, rate=share * most)
            findings += of_latency(name, *await _arms(options, prepared, started, name, load))
        if BEYOND in options.loads:
            load = Load(options.window_s, rate=FACTOR * most, deadline_ms=DEADLINE_MS)
            arms = await _arms(options, prepared, started, BEYOND, load)
            findings += of_goodput(BEYOND, *arms, DEADLINE_MS / 1000)
    return most, findings


async def _arms(
    options: argparse.Namespace, prepared: Prepared, started: Started, name: str, load: Load
) -> tuple[Arm, Arm]:
    """Return what was measured without and with a shadow."""
    target = Target.parse(started.url)
    without, with_one = Arm(), Arm()
    for has_shadow in order(options.rounds):
        await switch(prepared.models, started, STABLE, OTHER if has_shadow else "", options.share)
        before = await shadowed(target)
        with shown(load.duration_s, f"{name}{' with a shadow' * has_shadow}") as on_progress:
            run = await drive(
                target,
                prepared.requests(target, load.deadline_ms),
                load,
                server_pid=started.main_pid,
                on_progress=on_progress,
            )
        after = await shadowed(target)
        arm = with_one if has_shadow else without
        arm.add(run.outcomes, load.duration_s, {key: after[key] - before[key] for key in after})
    return without, with_one
