"""Reloads under load: the stable version changes again and again while clients send."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from load_tests.generator.run import Run
from load_tests.rollout.answers import Checker
from load_tests.rollout.models_folder import Log, ModelsFolder, Resources, resources
from load_tests.rollout.windows import Tally, Window, tally
from load_tests.scenarios.findings import Finding, at_least, at_most, fact, ratio
from load_tests.server.start import Started

# Unloaded as soon as it is replaced, so that every reload loads a bundle.
ENV = {"TIDEGATE_ROLLBACK_S": "0"}
P99_RATIO = 1.3  # in reload windows, to that in the control windows
SETTLED = 5  # reloads, after which memory, threads and descriptors should not grow
GROWN = 1.05  # resident memory of a version after that, to the last one until then
_FIRST_S = 2.0  # before the first reload
_SPARE_S = 0.2  # before the next reload
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Reload:
    """A change of the serving file, until the version before is unloaded."""

    version: str
    window: Window
    after: Resources  # from then to the next change


async def change_versions(
    models: ModelsFolder, started: Started, every_s: float, seconds: float
) -> list[Reload]:
    """Serve versions 2 and 1 in turn, every `every_s`, and note each reload.

    Raises MeasurementFailed if a version is not served, or the one before not unloaded, within
    half of `every_s`: the other half is the control.
    """
    begun, done = time.monotonic() + _FIRST_S, list[Reload]()
    for number in range(int((seconds - _FIRST_S) / every_s)):
        version = "12"[(number + 1) % 2]
        await _until(begun + number * every_s)
        log, changed = Log(started.log), time.monotonic()
        models.serve(version)
        end = changed + every_s / 2
        await log.message(f"reload of {models.model}: loaded", timeout_s=end - time.monotonic())
        await log.message("unloaded", timeout_s=end - time.monotonic())
        window = Window(changed, time.monotonic())
        after = await _usual(started.main_pid, begun + (number + 1) * every_s - _SPARE_S)
        done.append(Reload(version, window, after))
    return done


async def _usual(pid: int, end_s: float) -> Resources:
    """Sample a process until `end_s`; return its median memory, most threads and descriptors.

    Memory goes up and down by what the images in flight need.
    """
    samples = [resources(pid)]
    while (left_s := end_s - time.monotonic()) > 0:
        await asyncio.sleep(min(_SAMPLE_S, left_s))
        samples.append(resources(pid))
    return Resources(
        resident_mb=median(one.resident_mb for one in samples),
        threads=max(one.threads for one in samples),
        descriptors=max(one.descriptors for one in samples),
    )


async def _until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - time.monotonic()))


@dataclass(frozen=True)
class Measured:
    """The requests in the reload windows and in control windows of the same lengths."""

    inside: Tally
    control: Tally
    anywhere: Tally
    findings: list[Finding]
    warnings: list[str]  # reasons not to trust the run


def measured(run: Run, reloads: Sequence[Reload], checker: Checker, every_s: float) -> Measured:
    """Judge a run; a control window begins half of `every_s` after each change."""
    windows = [reload.window for reload in reloads]
    inside = tally(run.outcomes, windows)
    control = tally(run.outcomes, [window.later(every_s / 2) for window in windows])
    anywhere = tally(run.outcomes, [Window(float("-inf"), float("inf"))])
    lengths = [window.length_s for window in windows]
    findings = [
        at_least("reloads", len(reloads), 1, ""),
        fact("longest reload window", max(lengths, default=None), "s"),
        at_most(
            "failed in reload windows, more than in control", inside.failed - control.failed, 0, ""
        ),
        fact("failed in the whole run", anywhere.failed, ""),
        fact("p50 in reload windows", inside.p50_ms, "ms"),
        fact("p50 in control windows", control.p50_ms, "ms"),
        fact("p99 in reload windows", inside.p99_ms, "ms"),
        fact("p99 in control windows", control.p99_ms, "ms"),
        at_most("p99, ratio", ratio(inside.p99_ms, control.p99_ms), P99_RATIO, "×"),
        *of_resources(reloads),
        *of_answers(checker),
    ]
    return Measured(inside, control, anywhere, findings, run.report.warnings)


def of_resources(reloads: Sequence[Reload]) -> list[Finding]:
    """Compare what the process has after each reload with what it had until the fifth.

    Memory is compared with that of the same version, because each needs its own amount.
    """
    settled, later = reloads[:SETTLED], reloads[SETTLED:]
    if not later:
        if not reloads:
            return []
        last = reloads[-1].after
        return [
            fact("memory at the end", last.resident_mb, "MB"),
            fact("threads at the end", last.threads, ""),
            fact("descriptors at the end", last.descriptors, ""),
        ]
    memory = {reload.version: reload.after.resident_mb for reload in settled}
    most = {
        version: max(one.after.resident_mb for one in later if one.version == version)
        for version in sorted({one.version for one in later})
    }
    return [
        *(
            fact(f"memory of version {version}: {when}", found.get(version), "MB")
            for version in most
            for when, found in (("settled", memory), ("afterwards, at most", most))
        ),
        at_most(
            "memory afterwards, to the same version's",
            max(most[version] / memory.get(version, math.nan) for version in most),
            GROWN,
            "×",
        ),
        *(
            at_most(
                f"{name} afterwards, at most",
                max(number(one.after) for one in later),
                max(number(one.after) for one in settled),
                "",
            )
            for name, number in (("threads", _threads), ("descriptors", _descriptors))
        ),
    ]


def of_answers(checker: Checker) -> list[Finding]:
    """Return whether both versions answered, and every answer was that of its digest."""
    return [
        at_least("versions that answered", len(checker.seen), 2, ""),
        at_least("images that tell the versions apart", checker.telling, 1, ""),
        fact("answers checked", checker.seen.total(), ""),
        at_most("answers that are not their digest's", checker.wrong_answers, 0, ""),
    ]


def _threads(after: Resources) -> int:
    return after.threads


def _descriptors(after: Resources) -> int:
    return after.descriptors
