"""Computes the printed and saved figures from the outcomes. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from load_tests.generator.loops import Outcome
from load_tests.server.batch_sizes import BatchSizes
from load_tests.server.usage import Usage

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
STARVED_CORES = 0.8  # of the one core that an event loop can use
STARVED_LAG = 0.25  # generator lag at p99, as a share of the median latency
NEGLIGIBLE_LAG_MS = 2.0  # precision of timers


@dataclass(frozen=True)
class Report:
    """Results of one run. Latencies in milliseconds from the intended time; rates per second."""

    requests: int
    answered: int  # 200, or rejected as out of distribution
    vanished: int  # clients that disconnected on purpose: not in the quantiles or errors
    elapsed_s: float
    throughput: float  # answered per second
    deadline_ms: float | None
    goodput: float | None  # answered within the deadline, per second
    latency_ms: dict[str, float]  # of the answered
    refusal_ms: dict[str, float]  # of every other response: a rejection should be fast
    generator_lag_ms: dict[str, float]  # delay by this client; if not near 0, the run is invalid
    statuses: dict[str, int]
    codes: dict[str, int]
    errors: dict[str, int]
    retry_after_s: dict[str, float]
    client_cpu_s: float
    client_cores: float  # CPU seconds per second
    connections_opened: int
    server_cpu_ms_per_image: float | None
    server_main_thread_ms_per_image: float | None  # the main thread's part of it
    server_rss_mb: float | None
    server_peak_rss_mb: float | None
    server_threads: int | None
    server_open_files: int | None
    batch_size_mean: float | None
    batch_sizes: dict[str, int]  # upper bound → batches; empty if the server does not expose them
    prediction: dict[str, float]  # error of the server's predicted latency; empty if not measured
    warnings: list[str]  # reasons not to trust this run


@dataclass(frozen=True)
class Spent:
    """Resources of a run: wall clock, this client's CPU, and the server's CPU if measured."""

    elapsed_s: float
    client_cpu_s: float
    connections_opened: int
    server: Usage | None = None  # CPU seconds of the run; the other fields at its end
    batches: BatchSizes | None = None  # of the run


def summarise(outcomes: Sequence[Outcome], spent: Spent, deadline_s: float | None) -> Report:
    """Compute counts, rates and quantiles; without an answer the latencies are empty, not 0."""
    answered = [o for o in outcomes if o.answered]
    retry = [o.retry_after_s for o in outcomes if o.retry_after_s is not None]
    server, batches = spent.server, spent.batches
    latency_ms = quantiles_ms([o.latency_s for o in answered])
    lag_ms = quantiles_ms([o.lag_s for o in outcomes])
    cores = spent.client_cpu_s / spent.elapsed_s
    return Report(
        requests=len(outcomes),
        answered=len(answered),
        vanished=sum(o.vanished for o in outcomes),
        elapsed_s=spent.elapsed_s,
        throughput=len(answered) / spent.elapsed_s,
        deadline_ms=None if deadline_s is None else deadline_s * 1e3,
        goodput=None if deadline_s is None else _within(answered, deadline_s) / spent.elapsed_s,
        latency_ms=latency_ms,
        refusal_ms=quantiles_ms([o.latency_s for o in outcomes if o.refused]),
        generator_lag_ms=lag_ms,
        statuses=_counts(str(o.status) for o in outcomes if o.status is not None),
        codes=_counts(o.code for o in outcomes if o.code is not None),
        errors=_counts(o.error for o in outcomes if o.error is not None),
        retry_after_s={"min": min(retry), "max": max(retry), "count": len(retry)} if retry else {},
        client_cpu_s=spent.client_cpu_s,
        client_cores=cores,
        connections_opened=spent.connections_opened,
        server_cpu_ms_per_image=_per_image_ms(server.cpu_s if server else None, answered),
        server_main_thread_ms_per_image=_per_image_ms(
            server.main_thread_cpu_s if server else None, answered
        ),
        server_rss_mb=server.rss_mb if server else None,
        server_peak_rss_mb=server.peak_rss_mb if server else None,
        server_threads=server.threads if server else None,
        server_open_files=server.open_files if server else None,
        batch_size_mean=batches.mean if batches else None,
        batch_sizes=batches.up_to if batches else {},
        prediction=prediction_error(pairs(outcomes)),
        warnings=_warnings(cores, lag_ms, latency_ms),
    )


def _per_image_ms(cpu_s: float | None, answered: Sequence[Outcome]) -> float | None:
    return cpu_s * 1e3 / len(answered) if cpu_s is not None and answered else None


def quantiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return observed values (never interpolated) at each quantile, in milliseconds."""
    if not seconds:
        return {}
    values = np.quantile(np.asarray(seconds), list(QUANTILES.values()), method="inverted_cdf")
    return {name: float(v) * 1e3 for name, v in zip(QUANTILES, values, strict=True)}


def pairs(outcomes: Iterable[Outcome]) -> list[tuple[float, float]]:
    """Return (predicted, actual) milliseconds of each answer that contains both."""
    return [
        (o.predicted_ms, o.total_ms)
        for o in outcomes
        if o.predicted_ms is not None and o.total_ms is not None
    ]


def prediction_error(predictions: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the median error, absolute and signed, relative to the actual time.

    Positive means that the server was faster than predicted. Empty without a pair.
    """
    relative = [(predicted - actual) / actual for predicted, actual in predictions if actual > 0]
    if not relative:
        return {}
    return {
        "count": len(relative),
        "median_absolute_relative_error": float(np.median(np.abs(relative))),
        "median_relative_error": float(np.median(relative)),
    }


def _warnings(cores: float, lag_ms: dict[str, float], latency_ms: dict[str, float]) -> list[str]:
    """Return a warning for each sign that this client, not the server, was the limit."""
    found = []
    if cores >= STARVED_CORES:
        found.append(f"the client used {cores:.2f} of one core: it was the limit, not the server")
    lag = lag_ms.get("p99", 0.0)
    if lag > max(NEGLIGIBLE_LAG_MS, STARVED_LAG * latency_ms.get("p50", 0.0)):
        found.append(
            f"the client started 1 % of requests at least {lag:.1f} ms late: it lacked CPU"
        )
    return found


def _within(answered: Sequence[Outcome], deadline_s: float) -> int:
    return sum(o.latency_s <= deadline_s for o in answered)


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
