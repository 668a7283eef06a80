"""From outcomes to the numbers that are printed and kept. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from load_tests.generate import Outcome
from load_tests.process import Usage

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(frozen=True)
class Report:
    """One run. Latencies in milliseconds from the intended moment; rates per second."""

    requests: int
    answered: int  # 200, or refused as out of distribution
    elapsed_s: float
    throughput: float  # answered per second
    deadline_ms: float | None
    goodput: float | None  # answered within the deadline, per second
    latency_ms: dict[str, float]  # of the answered
    refusal_ms: dict[str, float]  # of every other response: a refusal should be quick
    generator_lag_ms: dict[str, float]  # this client's own lateness: near 0, or distrust the run
    statuses: dict[str, int]
    codes: dict[str, int]
    errors: dict[str, int]
    retry_after_s: dict[str, float]
    client_cpu_s: float
    connections_opened: int
    server_cpu_ms_per_image: float | None
    server_rss_mb: float | None
    server_peak_rss_mb: float | None


@dataclass(frozen=True)
class Spent:
    """What a run took: wall clock, this client's CPU, and the server's if it was watched."""

    elapsed_s: float
    client_cpu_s: float
    connections_opened: int
    server: Usage | None = None  # CPU seconds spent in the run; memory at its end


def summarise(outcomes: Sequence[Outcome], spent: Spent, deadline_s: float | None) -> Report:
    """Count, divide and take quantiles; a run without an answer has empty latencies, not zeros."""
    answered = [o for o in outcomes if o.answered]
    refused = [o for o in outcomes if o.status is not None and not o.answered]
    retry = [o.retry_after_s for o in outcomes if o.retry_after_s is not None]
    server = spent.server
    return Report(
        requests=len(outcomes),
        answered=len(answered),
        elapsed_s=spent.elapsed_s,
        throughput=len(answered) / spent.elapsed_s,
        deadline_ms=None if deadline_s is None else deadline_s * 1e3,
        goodput=None if deadline_s is None else _within(answered, deadline_s) / spent.elapsed_s,
        latency_ms=quantiles_ms([o.latency_s for o in answered]),
        refusal_ms=quantiles_ms([o.latency_s for o in refused]),
        generator_lag_ms=quantiles_ms([o.lag_s for o in outcomes]),
        statuses=_counts(str(o.status) for o in outcomes if o.status is not None),
        codes=_counts(o.code for o in outcomes if o.code is not None),
        errors=_counts(o.error for o in outcomes if o.error is not None),
        retry_after_s={"min": min(retry), "max": max(retry), "count": len(retry)} if retry else {},
        client_cpu_s=spent.client_cpu_s,
        connections_opened=spent.connections_opened,
        server_cpu_ms_per_image=server.cpu_s * 1e3 / len(answered) if server and answered else None,
        server_rss_mb=server.rss_mb if server else None,
        server_peak_rss_mb=server.peak_rss_mb if server else None,
    )


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Observed values (never interpolated) at each quantile, in milliseconds."""
    if not seconds:
        return {}
    values = np.quantile(np.asarray(seconds), list(QUANTILES.values()), method="inverted_cdf")
    return {name: float(v) * 1e3 for name, v in zip(QUANTILES, values, strict=True)}


def as_text(report: Report) -> str:
    """The report for a terminal: one fact a line."""
    rows = [
        ("requests", f"{report.requests} in {report.elapsed_s:.2f} s"),
        ("answered", f"{report.answered} ({report.throughput:.1f}/s)"),
        ("goodput", _goodput(report)),
        ("latency ms", _pairs(report.latency_ms)),
        ("refusals ms", _pairs(report.refusal_ms)),
        ("generator lag ms", _pairs(report.generator_lag_ms)),
        ("statuses", _pairs(report.statuses)),
        ("problem codes", _pairs(report.codes)),
        ("errors", _pairs(report.errors)),
        ("Retry-After s", _pairs(report.retry_after_s)),
        ("client CPU", f"{report.client_cpu_s:.2f} s, {report.connections_opened} connections"),
        ("server CPU", _number(report.server_cpu_ms_per_image, "ms per answered image")),
        ("server RSS", _number(report.server_rss_mb, "MB")),
        ("server peak RSS", _number(report.server_peak_rss_mb, "MB")),
    ]
    return "\n".join(f"{name:<18}{value}" for name, value in rows if value)


def _within(answered: Sequence[Outcome], deadline_s: float) -> int:
    return sum(o.latency_s <= deadline_s for o in answered)


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _goodput(report: Report) -> str:
    if report.goodput is None:
        return ""
    return f"{report.goodput:.1f}/s answered within {report.deadline_ms:.0f} ms"


def _pairs(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.6g}" for name, value in values.items())


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f} {unit}"
