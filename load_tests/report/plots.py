"""Plots of a load test: each function returns an `<svg>` element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from load_tests.generator.statistics import QUANTILES, Report, prediction_error, quantiles_ms
from load_tests.report.plot_style import (
    BLUE,
    GREY,
    LIMIT,
    MEDIAN,
    P90,
    P99,
    P999,
    RED,
    REFERENCE,
    drawn,
    legend_below,
    logarithmic,
)
from load_tests.scenarios.sweep import Sweep, error_share, refused_share

BAND = 0.15  # the latency model's aim: a median error of at most this
MOST_POINTS = 1500  # of a scatter plot: more make the page larger but not clearer
_QUANTILES = {"p50": MEDIAN, "p90": P90, "p99": P99, "p99.9": P999}
_CLOUD: dict[str, Any] = {
    "color": BLUE, "marker": ".", "linestyle": "none", "markersize": 4, "alpha": 0.5,
    "markeredgewidth": 0,
}  # fmt: skip
_REFUSALS: dict[str, Any] = {**_CLOUD, "color": RED, "marker": "x", "markeredgewidth": 1}
_BAND: dict[str, Any] = {"color": "#d4d4d4", "linewidth": 0}


def latency(sweep: Sweep) -> str:
    """Plot quantiles of the answered requests' latency against the offered load."""

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        for name, style in _QUANTILES.items():
            _curve(axes, sweep, _quantile(name), name, style)
        axes.axhline(sweep.deadline_ms, **REFERENCE)
        axes.text(
            0.01, sweep.deadline_ms, f"deadline {sweep.deadline_ms:g} ms", va="bottom",
            color=GREY, fontsize=8.5, transform=axes.get_yaxis_transform(),
        )  # fmt: skip
        _mark_capacity(axes, sweep)
        logarithmic(axes.yaxis)
        axes.set_ylabel("latency of answered requests (ms)")
        axes.set_title("Latency against offered load")
        legend_below(axes)

    return drawn("latency", draw)


def goodput(sweep: Sweep) -> str:
    """Plot answers per second, and those within the deadline, against the offered load."""

    def draw(axes: Axes) -> None:
        top = max(step.offered for step in sweep.steps)
        knee = min(sweep.capacity, top)
        ideal = "ideal: the offered load, up to the capacity"
        axes.plot([0, knee, top], [0, knee, knee], label=ideal, **REFERENCE)
        _curve(axes, sweep, lambda report: report.throughput, "answered", P90)
        within = f"goodput: answered within {sweep.deadline_ms:g} ms"
        _curve(axes, sweep, lambda report: report.goodput, within, MEDIAN)
        _mark_capacity(axes, sweep)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("images per second")
        axes.set_title("Goodput against offered load")
        legend_below(axes)

    return drawn("goodput", draw)


def refused(sweep: Sweep) -> str:
    """Plot the shares of rejected and unanswered requests against the offered load."""

    def draw(axes: Axes) -> None:
        x = np.linspace(1e-9, max(step.offered for step in sweep.steps), 200)
        needed = 100 * np.maximum(0, 1 - sweep.capacity / x)
        axes.plot(x, needed, label="minimum at this capacity", **REFERENCE)
        _curve(axes, sweep, lambda report: 100 * refused_share(report), "refused", MEDIAN)
        nothing = "no usable response (timeout, disconnect)"
        _curve(axes, sweep, lambda report: 100 * error_share(report), nothing, P999)
        _mark_capacity(axes, sweep)
        axes.set_ylim(-2, 102)
        axes.set_ylabel("share of requests (%)")
        axes.set_title("Refusals against offered load")
        legend_below(axes)

    return drawn("refused", draw)


def batch_sizes(sweep: Sweep) -> str:
    """Plot the distribution of batch sizes at each load; empty if the server exposes none."""
    known = [step for step in sweep.steps if step.measured.report.batch_size_mean]
    if not known:
        return ""
    shares, names = _batch_shares([step.measured.report for step in known])

    def draw(axes: Axes) -> None:
        image = axes.pcolormesh(
            100 * shares, cmap="Greys", vmin=0, vmax=100, edgecolors="white", linewidth=1.5
        )
        columns = np.arange(len(known)) + 0.5
        axes.set_xticks(columns, [f"{step.share:g}" for step in known])
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for column, step in zip(columns, known, strict=True):
            mean = f"{step.measured.report.batch_size_mean:.1f}"
            axes.text(column, len(names) + 0.06, mean, ha="center", fontsize=8.5)
        axes.set_xlabel("offered load (× capacity)")
        axes.set_ylabel("batch size (images)")
        axes.set_title("Batch sizes against offered load (mean above each column)", pad=18)
        axes.figure.figure.colorbar(image, ax=axes, label="share of batches (%)")

    return drawn("batches", draw)


def predictions(pairs: Sequence[tuple[float, float]]) -> str:
    """Plot the server's predicted latency against the measured one, with the ±15 % band."""
    points = np.array(pairs)[_thinned(len(pairs))]
    error = prediction_error(pairs)["median_absolute_relative_error"]

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_yscale("log")
        ends = np.array([0.8 * points.min(), 1.25 * points.max()])
        band = f"±{100 * BAND:g} %"
        axes.fill_between(ends, ends * (1 - BAND), ends * (1 + BAND), label=band, **_BAND)
        axes.plot(ends, ends, label="as predicted", **REFERENCE)
        axes.plot(points[:, 1], points[:, 0], label="request", **_CLOUD)
        axes.set(xlim=ends, ylim=ends)
        logarithmic(axes.xaxis)
        logarithmic(axes.yaxis)
        axes.set(xlabel="measured in the server (ms)", ylabel="predicted at admission (ms)")
        axes.set_title(f"Latency model: median absolute error {error:.1%}, {len(pairs)} requests")
        legend_below(axes)

    return drawn("predictions", draw)


def over_time(at_s: Sequence[float], latency_ms: Sequence[float], answered: Sequence[bool]) -> str:
    """Plot each response's latency at its intended time (seconds from the start)."""
    x, y, good = np.array(at_s), np.array(latency_ms), np.array(answered, bool)
    kept = shown_points(latency_ms)
    x, y, good = x[kept], y[kept], good[kept]

    def draw(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.plot(x[good], y[good], label="answered", **_CLOUD)
        if not good.all():
            axes.plot(x[~good], y[~good], label="refused", **_REFUSALS)
        logarithmic(axes.yaxis)
        axes.set(xlabel="intended time (s from the start)", ylabel="latency (ms)")
        axes.set_title("Latency over time")
        legend_below(axes)

    return drawn("over-time", draw)


def distribution(latency_ms: Sequence[float], deadline_ms: float | None) -> str:
    """Plot the distribution function of the answered requests' latency and its quantiles."""
    shares = np.unique(np.concatenate([np.linspace(0, 1, 201), 1 - np.logspace(-4, -1, 40)]))
    values = np.quantile(np.array(latency_ms), shares, method="inverted_cdf")
    marked = quantiles_ms([ms / 1e3 for ms in latency_ms])

    def draw(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.plot(values, 100 * shares, color=BLUE, drawstyle="steps-post")
        for name, style in _QUANTILES.items():
            value, marker = marked[name], {**style, "linestyle": "none"}
            axes.plot(value, 100 * QUANTILES[name], label=f"{name}: {value:.3g} ms", **marker)
        if deadline_ms is not None:
            axes.axvline(deadline_ms, label=f"deadline: {deadline_ms:g} ms", **LIMIT)
        logarithmic(axes.xaxis)
        axes.set(xlabel="latency of answered requests (ms)", ylabel="cumulative share (%)")
        axes.set_title("Distribution of the latency")
        legend_below(axes)

    return drawn("distribution", draw)


def shown_points(values: Sequence[float]) -> NDArray[np.int64]:
    """Return the indices of the points to draw: evenly spaced ones, and the slowest."""
    slowest = min(max(1, len(values) // 100), MOST_POINTS)
    return np.union1d(_thinned(len(values)), np.argsort(np.asarray(values))[-slowest:])


def _curve(
    axes: Axes,
    sweep: Sweep,
    value: Callable[[Report], float | None],
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Plot one value of each step's report; a missing value leaves a gap."""
    # With random arrivals the smaller of two close shares can have offered more.
    steps = sorted(sweep.steps, key=lambda step: step.offered)
    values = [value(step.measured.report) for step in steps]
    y = [np.nan if one is None else one for one in values]
    axes.plot([step.offered for step in steps], y, label=label, **style)


def _quantile(name: str) -> Callable[[Report], float | None]:
    return lambda report: report.latency_ms.get(name)


def _mark_capacity(axes: Axes, sweep: Sweep) -> None:
    """Add the axis of the offered load: requests per second below, capacities above."""
    capacity = sweep.capacity
    axes.axvline(capacity, **LIMIT)
    axes.set_xlim(left=0)
    axes.set_xlabel("offered load (requests/s)")
    above = axes.secondary_xaxis(
        "top", functions=(lambda x: np.asarray(x) / capacity, lambda x: np.asarray(x) * capacity)
    )
    above.set_xlabel(f"× capacity of {capacity:.1f}/s", fontsize=8.5)
    above.tick_params(labelsize=8.5)


def _batch_shares(reports: Sequence[Report]) -> tuple[NDArray[np.float64], list[str]]:
    """Return the shares [bucket, step] up to the largest bucket in use, and its names."""
    bounds = sorted({bound for report in reports for bound in report.batch_sizes}, key=float)
    counts = np.array([[report.batch_sizes.get(b, 0) for report in reports] for b in bounds])
    used = int(np.flatnonzero(counts.sum(axis=1)).max()) + 1
    names = [
        _bucket(below, bound) for below, bound in zip(["0", *bounds], bounds[:used], strict=False)
    ]
    return counts[:used] / np.maximum(1, counts.sum(axis=0)), names


def _bucket(below: str, bound: str) -> str:
    """Return the name of a bucket: `"4", "8"` is 5–8."""
    lowest = int(float(below)) + 1
    if bound == "+Inf":
        return f"≥ {lowest}"
    highest = int(float(bound))
    return str(highest) if highest == lowest else f"{lowest}–{highest}"


def _thinned(count: int) -> NDArray[np.int64]:
    """Return evenly spaced indices of at most MOST_POINTS of `count` points."""
    return np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(np.int64))
