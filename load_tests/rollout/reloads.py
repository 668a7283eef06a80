"""Reloads under load: the stable version changes again and again while clients send."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.generator.run import Run
from load_tests.rollout.answers import Checker
from load_tests.rollout.models_folder import Log, ModelsFolder, Resources, resources
from load_tests.rollout.windows import Tally, Window, tally
from load_tests.scenarios.findings import Finding, at_least, at_most, fact, ratio
from load_tests.server.start import Started

# Unloaded as soon as it is replaced, so that every reload loads a bundle.
ENV = {"TIDEGATE_ROLLBACK_S": "0"}
P99_RATIO = 1.3  # in reload windows, to that in the control windows
GROWN = 1.05  # resident memory, the largest after SETTLED reloads to that at the fifth
SETTLED = 5  # reloads, after which memory, threads and descriptors should not grow
_FIRST_S = 2.0  # before the first reload
_SPARE_S = 0.2  # before the next reload


@dataclass(frozen=True)
class Reload:
    """A change of the serving file, until the version before is unloaded."""

    version: str
    window: Window
    after: Resources  # just before the next change


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
        await _until(begun + (number + 1) * every_s - _SPARE_S)
        done.append(Reload(version, window, resources(started.main_pid)))
    return done


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
        *of_resources([reload.after for reload in reloads]),
        *of_answers(checker),
    ]
    return Measured(inside, control, anywhere, findings, run.report.warnings)


def of_resources(after: Sequence[Resources]) -> list[Finding]:
    """Compare what the process has after each reload with what it had after the fifth."""
    if len(after) <= SETTLED:
        return [
            fact(f"{name} at the end", value, unit) for name, value, unit in _values(after[-1:])
        ]
    settled, later = after[:SETTLED], after[SETTLED:]
    return [
        fact("memory at the fifth reload", settled[-1].resident_mb, "MB"),
        at_most(
            "memory afterwards, at most",
            max(one.resident_mb for one in later),
            GROWN * settled[-1].resident_mb,
            "MB",
        ),
        at_most(
            "threads afterwards, at most",
            max(one.threads for one in later),
            max(one.threads for one in settled),
            "",
        ),
        at_most(
            "descriptors afterwards, at most",
            max(one.descriptors for one in later),
            max(one.descriptors for one in settled),
            "",
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


def _values(last: Sequence[Resources]) -> list[tuple[str, float, str]]:
    return [
        value
        for one in last
        for value in (
            ("memory", one.resident_mb, "MB"),
            ("threads", one.threads, ""),
            ("descriptors", one.descriptors, ""),
        )
    ]
