"""Figures of pairs of windows without and with an addition, and their ratios. Pure."""

import math
from collections.abc import Sequence
from statistics import fmean

from load_tests.generator.intervals import Interval, latencies
from load_tests.generator.loops import Outcome
from load_tests.generator.statistics import quantiles_ms
from load_tests.overhead.scrape_cost import ScrapeCost
from load_tests.overhead.side_by_side import Window
from load_tests.scenarios.findings import Finding, at_most, fact, ratio

Pair = tuple[Window, Window]  # without and with the addition, at the same time or one by one


def of_cpu(pairs: Sequence[Pair], most: float) -> list[Finding]:
    """Compare the CPU time per image; `most` is the highest ratio that is aimed at."""
    interval = Interval.of([(a.cpu_ms, b.cpu_ms) for a, b in pairs])
    return [
        fact("CPU per image without, mean of windows", fmean(a.cpu_ms for a, _ in pairs), "ms"),
        fact("CPU per image with, mean of windows", fmean(b.cpu_ms for _, b in pairs), "ms"),
        at_most("CPU per image, ratio", interval.ratio, most, "×"),
        fact("CPU per image, ratio: lower end of 95 %", interval.low, "×"),
        fact("CPU per image, ratio: upper end of 95 %", interval.high, "×"),
        *_counts(pairs),
    ]


def of_p50(pairs: Sequence[Pair]) -> list[Finding]:
    """Return the median latencies of both sides, and their ratio."""
    without, with_it = (_quantiles_ms([pair[arm] for pair in pairs])["p50"] for arm in (0, 1))
    return [
        fact("p50 without", without, "ms"),
        fact("p50 with", with_it, "ms"),
        fact("p50, ratio", ratio(with_it, without), "×"),
    ]


def of_latency(pairs: Sequence[Pair], most: float) -> list[Finding]:
    """Compare the latencies; `most` is the highest ratio of p99 that is aimed at."""
    without, with_it = (_quantiles_ms([pair[arm] for pair in pairs]) for arm in (0, 1))
    interval = Interval.of_p99([(latencies(a.outcomes), latencies(b.outcomes)) for a, b in pairs])
    return [
        *of_p50(pairs),
        fact("p99 without", without["p99"], "ms"),
        fact("p99 with", with_it["p99"], "ms"),
        at_most("p99, ratio", interval.ratio, most, "×"),
        fact("p99, ratio: lower end of 95 %", interval.low, "×"),
        fact("p99, ratio: upper end of 95 %", interval.high, "×"),
        *_counts(pairs),
    ]


def of_scrape(pairs: Sequence[Pair], cost: ScrapeCost, most: float) -> list[Finding]:
    """Say what a scrape costs, and how long p99 is if its request waits for a whole scrape.

    But for colder caches, a scrape delays no request by more than its CPU time, on any number of
    cores. `most` is the highest ratio that is aimed at.
    """
    p99_ms = _quantiles_ms([without for without, _ in pairs])["p99"]
    return [
        fact("CPU of a scrape", cost.cpu_ms, "ms"),
        fact("duration of a scrape without load", cost.duration_ms, "ms"),
        at_most("p99 and a whole scrape, ratio", (p99_ms + cost.cpu_ms) / p99_ms, most, "×"),
    ]


def mean_of(windows: Sequence[Window]) -> Window:
    """Join windows of one side; the CPU time is their geometric mean."""
    outcomes = [outcome for window in windows for outcome in window.outcomes]
    return Window(outcomes, math.exp(fmean(math.log(window.cpu_ms) for window in windows)))


def _quantiles_ms(windows: Sequence[Window]) -> dict[str, float]:
    return quantiles_ms([o.latency_s for window in windows for o in _answered(window)])


def _answered(window: Window) -> list[Outcome]:
    return [outcome for outcome in window.outcomes if outcome.answered]


def _counts(pairs: Sequence[Pair]) -> list[Finding]:
    outcomes = [[o for pair in pairs for o in pair[arm].outcomes] for arm in (0, 1)]
    failed = [sum(not outcome.answered for outcome in arm) for arm in outcomes]
    return [
        fact("pairs of windows", float(len(pairs)), ""),
        fact("requests", float(len(outcomes[0]) + len(outcomes[1])), ""),
        at_most("failed, more than without", failed[1] - failed[0], 0, ""),
    ]
