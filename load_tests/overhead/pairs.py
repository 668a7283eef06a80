"""Figures of interleaved windows with and without an addition, and their ratios. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from load_tests.errors import MeasurementFailed
from load_tests.generator.loops import Outcome
from load_tests.generator.run import Run
from load_tests.generator.statistics import quantiles_ms
from load_tests.scenarios.findings import Finding, at_most, fact, ratio

_T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
_Z_95 = 2.1  # of more pairs; Student's t for 20


@dataclass
class Arm:
    """All windows with the addition, or without it."""

    outcomes: list[Outcome] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # per image, one for each window

    def add(self, run: Run) -> None:
        """Add a window. Raises MeasurementFailed if it answered nothing."""
        if run.report.server_cpu_ms_per_image is None:
            raise MeasurementFailed("a window answered nothing, or its server's CPU is not known")
        self.outcomes += run.outcomes
        self.cpu_ms.append(run.report.server_cpu_ms_per_image)

    def quantile_ms(self, name: str) -> float | None:
        """Return a quantile of the answered requests' latency."""
        return quantiles_ms([o.latency_s for o in self.outcomes if o.answered]).get(name)


@dataclass(frozen=True)
class Interval:
    """The mean of the logarithms of the pairs' ratios, as a ratio, with its 95 % interval."""

    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, without: Sequence[float], with_it: Sequence[float]) -> "Interval":
        """Compare pairs of windows that were measured one right after the other."""
        logs = [math.log(b / a) for a, b in zip(without, with_it, strict=True)]
        mean = fmean(logs)
        half = 0.0
        if len(logs) > 1:
            half = _T_95.get(len(logs), _Z_95) * stdev(logs) / math.sqrt(len(logs))
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def of_cpu(without: Arm, with_it: Arm, most: float) -> list[Finding]:
    """Compare the CPU time per image; `most` is the highest ratio that is aimed at."""
    interval = Interval.of(without.cpu_ms, with_it.cpu_ms)
    return [
        fact("CPU per image without, mean of windows", fmean(without.cpu_ms), "ms"),
        fact("CPU per image with, mean of windows", fmean(with_it.cpu_ms), "ms"),
        at_most("CPU per image, ratio", interval.ratio, most, "×"),
        fact("CPU per image, ratio: lower end of 95 %", interval.low, "×"),
        fact("CPU per image, ratio: upper end of 95 %", interval.high, "×"),
        *_failures(without, with_it),
    ]


def of_latency(without: Arm, with_it: Arm, most: float) -> list[Finding]:
    """Compare the latencies; `most` is the highest ratio of p99 that is aimed at."""
    p50, p50_with = without.quantile_ms("p50"), with_it.quantile_ms("p50")
    p99, p99_with = without.quantile_ms("p99"), with_it.quantile_ms("p99")
    return [
        fact("p50 without", p50, "ms"),
        fact("p50 with", p50_with, "ms"),
        fact("p99 without", p99, "ms"),
        fact("p99 with", p99_with, "ms"),
        at_most("p99, ratio", ratio(p99_with, p99), most, "×"),
        *_failures(without, with_it),
    ]


def order(rounds: int) -> list[tuple[bool, bool]]:
    """Return for each pair of windows which one has the addition; a drift affects both alike."""
    return [(False, True) if number % 2 == 0 else (True, False) for number in range(rounds)]


def _failures(without: Arm, with_it: Arm) -> list[Finding]:
    failed = [sum(not o.answered for o in arm.outcomes) for arm in (without, with_it)]
    return [
        fact("requests", float(len(without.outcomes) + len(with_it.outcomes)), ""),
        at_most("failed, more than without", failed[1] - failed[0], 0, ""),
    ]
