"""Loads of two and three times the capacity, and the recovery afterwards."""

from collections.abc import Sequence

from load_tests.generator.loops import Outcome
from load_tests.generator.run import Run
from load_tests.generator.statistics import quantiles_ms
from load_tests.scenarios.findings import Finding, at_least, at_most, fact, ratio
from load_tests.scenarios.setting import Result, Setting
from load_tests.scenarios.steady import capacity
from load_tests.server.sampling import Sample, sample, watching

FACTORS = (2, 3)
DEADLINE_MS = 250.0
DURATION_S = 60.0
NORMAL_SHARE = 0.5  # of the capacity: the load before and after
NORMAL_S = 10.0
RECOVERED_AFTER_S = 1.0
GOODPUT_SHARE = 0.9
REFUSAL_P99_MS = 20.0
MOVED = 1.2  # largest ratio of two p99 that counts as no change
GROWN = 1.05  # the same for resident memory, from the first quarter of the overload to its end
REFUSALS = frozenset({429, 503})  # a 504 was admitted but too late: it is counted separately


async def overload(setting: Setting, duration_s: float = DURATION_S) -> Result:
    """Measure for each factor: capacity, normal load, overload, normal load, capacity."""
    together = Result([])
    for factor in FACTORS:
        result = await _one(setting, factor, duration_s)
        together.findings.extend(result.findings)
        together.runs.update(result.runs)
        together.samples.extend(result.samples)
    return together


async def _one(setting: Setting, factor: int, duration_s: float) -> Result:
    earlier = await capacity(setting)
    normal_s = min(NORMAL_S, duration_s)
    normal = setting.at_rate(NORMAL_SHARE * earlier, normal_s)
    before = await setting.drive(f"{factor} ×: normal load before", normal)
    load = setting.at_rate(factor * earlier, duration_s, DEADLINE_MS)
    async with watching(setting.server_pid, every_s=min(1.0, duration_s / 20)) as samples:
        during = await setting.drive(f"{factor} × capacity", load)
    samples.append(sample(setting.server_pid))
    again = setting.at_rate(NORMAL_SHARE * earlier, RECOVERED_AFTER_S + normal_s)
    after = await setting.drive(f"{factor} ×: normal load after", again)
    # The machine's speed may have changed, so the aim is a share of the mean of both capacities.
    reference = (earlier + await capacity(setting)) / 2
    prefix = f"{factor} ×: "
    findings = [
        *in_overload(during, reference, prefix),
        *of_memory(samples, prefix),
        *of_recovery(before, during, after, prefix),
    ]
    runs = {f"{factor}x before": before, f"{factor}x": during, f"{factor}x after": after}
    return Result(findings, runs, samples)


def in_overload(during: Run, capacity: float, prefix: str) -> list[Finding]:
    """Compare the goodput with the capacity, and check the rejections."""
    refused = [o for o in during.outcomes if o.status in REFUSALS]
    late = sum(o.status == 504 for o in during.outcomes)
    # Divided by the duration of the load, without the wait for the last answers.
    good = sum(o.answered and o.latency_s <= DEADLINE_MS / 1e3 for o in during.outcomes)
    goodput = good / during.load.duration_s
    return [
        fact(f"{prefix}capacity", capacity, "/s"),
        fact(f"{prefix}offered", during.load.rate, "/s"),
        at_least(f"{prefix}goodput within 250 ms", goodput, GOODPUT_SHARE * capacity, "/s"),
        at_least(f"{prefix}goodput of the capacity", goodput / capacity, GOODPUT_SHARE, "×"),
        fact(f"{prefix}refused", len(refused), "requests"),
        at_most(f"{prefix}refusals, p99", _p99_ms(refused), REFUSAL_P99_MS, "ms"),
        at_most(
            f"{prefix}refusals without Retry-After",
            sum(o.retry_after_s is None for o in refused),
            0,
            "requests",
        ),
        fact(f"{prefix}admitted but too late (504)", late, "requests"),
        at_most(f"{prefix}errors", sum(during.report.errors.values()), 0, "requests"),
    ]


def of_memory(samples: Sequence[Sample], prefix: str) -> list[Finding]:
    """Return resident memory before, at most and at the end; it should not grow under overload."""
    settled = samples[len(samples) // 4].rss_mb
    return [
        fact(f"{prefix}memory before", samples[0].rss_mb, "MB"),
        fact(f"{prefix}memory at most", max(s.rss_mb for s in samples), "MB"),
        at_most(f"{prefix}memory at the end", samples[-1].rss_mb, GROWN * settled, "MB"),
    ]


def of_recovery(before: Run, during: Run, after: Run, prefix: str) -> list[Finding]:
    """Compare the normal load from 1 s after the last overload request with that before."""
    ended = max(outcome.at_s for outcome in during.outcomes) if during.outcomes else 0.0
    recovered = [o for o in after.outcomes if o.at_s >= ended + RECOVERED_AFTER_S]
    p99_before = _p99_ms([o for o in before.outcomes if o.answered])
    p99_after = _p99_ms([o for o in recovered if o.answered])
    return [
        fact(f"{prefix}normal load, p99 before", p99_before, "ms"),
        fact(f"{prefix}normal load, p99 from 1 s after", p99_after, "ms"),
        at_most(f"{prefix}p99 after over before", ratio(p99_after, p99_before), MOVED, "×"),
        at_most(
            f"{prefix}unanswered from 1 s after",
            sum(not o.answered for o in recovered),
            0,
            "requests",
        ),
    ]


def _p99_ms(outcomes: Sequence[Outcome]) -> float | None:
    return quantiles_ms([o.latency_s for o in outcomes]).get("p99")
