"""A long run at 70 % of the capacity, to detect growth of memory, threads or open files."""

from collections.abc import Sequence

from load_tests.generator.run import Run
from load_tests.scenarios.findings import Finding, at_most, fact
from load_tests.scenarios.setting import Result, Setting
from load_tests.scenarios.trend import trend
from load_tests.server.sampling import Sample, watching

SHARE = 0.7
DURATION_S = 1800.0
_LEAST_SAMPLES = (
    80  # a short soak samples more often, so that its second half has enough for a trend
)


async def soak(setting: Setting, capacity: float, duration_s: float = DURATION_S) -> Result:
    """Run an open loop at 70 % and sample memory, threads and descriptors every second."""
    every_s = min(1.0, duration_s / _LEAST_SAMPLES)
    async with watching(setting.server_pid, every_s) as samples:
        run = await setting.drive("soak", setting.at_rate(SHARE * capacity, duration_s))
    return Result(findings(run, samples), {"soak": run}, samples)


def findings(run: Run, samples: Sequence[Sample]) -> list[Finding]:
    """Return the slope of memory in the second half, and the ranges of threads and files."""
    half = samples[len(samples) // 2 :]
    return [
        fact("latency p50", run.report.latency_ms.get("p50"), "ms"),
        fact("latency p99", run.report.latency_ms.get("p99"), "ms"),
        at_most("refused or failed", run.report.requests - run.report.answered, 0, "requests"),
        fact("memory at the start", samples[0].rss_mb, "MB"),
        fact("memory at half time", half[0].rss_mb, "MB"),
        fact("memory at the end", samples[-1].rss_mb, "MB"),
        *_slope(half),
        *_spread("threads", [s.threads for s in half]),
        *_spread("open files", [s.open_files for s in half if s.open_files is not None]),
    ]


def _slope(half: Sequence[Sample]) -> list[Finding]:
    slope = trend([s.at_s for s in half], [s.rss_mb for s in half])
    if slope is None:
        return [fact("memory slope, second half", None, "MB/h")]
    return [
        Finding(
            "memory slope, second half",
            slope.per_hour,
            "MB/h",
            "0 in its 95 % interval",
            slope.zero_inside,
        ),
        fact("its standard error", slope.standard_error, "MB/h"),
    ]


def _spread(name: str, values: Sequence[int]) -> list[Finding]:
    if not values:
        return []
    return [
        fact(f"{name}, fewest in the second half", min(values), ""),
        fact(f"{name}, most in the second half", max(values), ""),
    ]
