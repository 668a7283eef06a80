"""Reloads under load: the stable version changes again and again while clients send."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
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
SETTLED = 5  # reloads, from which on memory, threads and descriptors should not grow
GROWN = 1.05  # resident memory of a version, later to earlier
_FIRST_S = 20.0  # before the first reload, which has its control there
_SPARE_S = 0.2  # before the next reload
_SAMPLE_S = 0.5


@dataclass(frozen=True)
class Reload:
    """A change of the serving file, until the version before is unloaded."""

    version: str
    loading: Window  # the version before answers
    unloading: Window  # this version answers
    after: Resources  # from then to the next change

    @property
    def window(self) -> Window:
        """Return the whole of it."""
        return Window(self.loading.begin_s, self.unloading.end_s)

    @property
    def controls(self) -> tuple[Window, Window]:
        """Return windows of the same lengths in which the same versions answer."""
        return self.loading.before(), self.unloading.after()


async def change_versions(
    models: ModelsFolder, started: Started, every_s: float, seconds: float
) -> list[Reload]:
    """Serve versions 2 and 1 in turn, every `every_s`, and note each reload.

    Raises MeasurementFailed if a version is not served, or the one before not unloaded, within
    a third of `every_s`: the rest has the controls.
    """
    begun, done = time.monotonic() + _FIRST_S, list[Reload]()
    for number in range(int((seconds - _FIRST_S) / every_s)):
        version = "12"[(number + 1) % 2]
        await _until(begun + number * every_s)
        log, changed = Log(started.log), time.monotonic()
        models.serve(version)
        end = changed + every_s / 3
        await log.message(f"reload of {models.model}: loaded", timeout_s=end - time.monotonic())
        loaded = time.monotonic()
        await log.message("unloaded", timeout_s=end - time.monotonic())
        loading, unloading = Window(changed, loaded), Window(loaded, time.monotonic())
        after = await _usual(started.main_pid, begun + (number + 1) * every_s - _SPARE_S)
        done.append(Reload(version, loading, unloading, after))
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


def measured(run: Run, reloads: Sequence[Reload], checker: Checker) -> Measured:
    """Judge a run."""
    windows = [reload.window for reload in reloads]
    inside = tally(run.outcomes, windows)
    control = tally(run.outcomes, [window for reload in reloads for window in reload.controls])
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
    """Return whether the process has no more after later reloads than after the first five.

    Memory is judged from the fifth reload on, the later half against the earlier one, each version
    by itself, because each needs its own amount. The median counts, because where an allocator has
    its holes differs from reload to reload.
    """
    settled, later = reloads[:SETTLED], reloads[SETTLED:]
    if not later:
        return [
            fact(f"{name} at the end", number(one.after), unit)
            for one in reloads[-1:]
            for name, number, unit in _RESOURCES
        ]
    findings: list[Finding] = []
    growth: list[float] = []
    for version in sorted({one.version for one in reloads}):
        earlier, later_mb = _halves(reloads[SETTLED - 1 :], version)
        findings += [
            fact(f"memory of version {version}: settled", earlier, "MB"),
            fact(f"memory of version {version}: afterwards", later_mb, "MB"),
        ]
        growth += [later_mb / earlier] if earlier and later_mb else []
    if growth:
        name = "memory afterwards, to the same version's"
        findings.append(at_most(name, max(growth), GROWN, "×"))
    findings += [
        at_most(
            f"{name} afterwards, at most",
            max(number(one.after) for one in later),
            max(number(one.after) for one in settled),
            "",
        )
        for name, number, unit in _RESOURCES
        if not unit
    ]
    return findings


_RESOURCES: tuple[tuple[str, Callable[[Resources], float], str], ...] = (
    ("memory", attrgetter("resident_mb"), "MB"),
    ("threads", attrgetter("threads"), ""),
    ("descriptors", attrgetter("descriptors"), ""),
)


def _halves(reloads: Sequence[Reload], version: str) -> tuple[float | None, float | None]:
    """Return the median MB after the earlier and after the later half of a version's reloads."""
    found = [one.after.resident_mb for one in reloads if one.version == version]
    half = len(found) // 2
    return (median(found[:half]), median(found[-half:])) if half else (None, None)


def of_answers(checker: Checker) -> list[Finding]:
    """Return whether both versions answered, and every answer was that of its digest."""
    return [
        at_least("versions that answered", len(checker.seen), 2, ""),
        at_least("images that tell the versions apart", checker.telling, 1, ""),
        fact("answers checked", checker.seen.total(), ""),
        at_most("answers that are not their digest's", checker.wrong_answers, 0, ""),
    ]
