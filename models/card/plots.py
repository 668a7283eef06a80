"""The plots of a model card, as SVG whose bytes depend only on the data.

Text stays text, so that names in any script are shown with the reader's fonts. The colours are
Okabe & Ito's, which colour-blind readers can distinguish.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tidegate.models.card.card_data import (
    AUROC,
    CONFUSION,
    RELIABILITY,
    SCORES,
    TRAINING,
    CardData,
)
from tidegate.models.card.training_plot import training_plot
from tidegate.models.evaluation.intervals import wilson
from tidegate.models.evaluation.score_histograms import TEST
from tidegate.service.bundle.evidence import OodReport, Probabilities
from tidegate.service.bundle.manifest import Histogram

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#6b6b6b"
_SET_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SCORE_COLOURS = (BLUE, ORANGE, GREEN, "#8c6bb1", "#b5651d", GREY)
_NAME_LENGTH = 30
_STYLE: dict[Any, Any] = {  # Any: the stubs list all keys as literals
    "svg.hashsalt": "tidegate",  # otherwise ids in the file are random
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib: same text sizes everywhere
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.0,
    "legend.frameon": False,
}


def plots(data: CardData) -> dict[str, bytes]:
    """Return the files of the card's plots by name: exactly those in `data.plots`."""
    draw: dict[str, Callable[[CardData], Figure]] = {
        RELIABILITY: _reliability,
        CONFUSION: _confusion,
        AUROC: _auroc,
        SCORES: _scores,
        TRAINING: training_plot,
    }
    with rc_context(), warnings.catch_warnings():
        rcdefaults()  # the user's matplotlib settings must not affect the bundle
        rcParams.update(_STYLE)
        # only the width of such a name is estimated; the reader's fonts draw it
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        return {name: _svg(draw[name](data)) for name in data.plots}


def _svg(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _reliability(data: CardData) -> Figure:
    found = data.evaluation
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    start = _lowest(found.uncalibrated, found.calibrated)
    for axes, name, measured in (
        (panels[0], "Before scaling", found.uncalibrated),
        (panels[1], "After scaling", found.calibrated),
    ):
        _reliability_panel(axes, measured)
        axes.set(xlim=(start, 1.01), ylim=(start, 1.01), aspect="equal")
        axes.set_xlabel("mean confidence of the bin")
        axes.set_title(
            f"{name}, T = {measured.temperature:.3g}\n"
            f"ECE {measured.ece:.4f}, noise floor {measured.ece_noise_floor:.4f}"
        )
    panels[0].set_ylabel("accuracy in the bin (95 % interval)")
    panels[0].legend(loc="upper left")
    return figure


def _reliability_panel(axes: Axes, measured: Probabilities) -> None:
    confidence = np.array([bin.confidence for bin in measured.reliability])
    accuracy = np.array([bin.accuracy for bin in measured.reliability])
    images = np.array([bin.images for bin in measured.reliability])
    low, high = wilson(np.rint(accuracy * images), images)
    # rounding may make a bar slightly negative, which errorbar rejects
    reach = np.maximum([accuracy - low, high - accuracy], 0)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect")
    axes.errorbar(
        confidence, accuracy, yerr=reach, color=BLUE, fmt="o-", markersize=3.5, linewidth=1,
        elinewidth=0.8, label="measured",
    )  # fmt: skip


def _lowest(*measured: Probabilities) -> float:
    """Return the start of both axes: the tenth below every point."""
    points = [min(b.confidence, b.accuracy) for m in measured for b in m.reliability]
    return max(0.0, math.floor(10 * min(points) - 0.5) / 10)


def _confusion(data: CardData) -> Figure:
    found, n = data.evaluation, data.task.classes
    counts = np.zeros((n, n), np.int64)
    for pair in found.confusions:
        counts[pair.actual, pair.predicted] = pair.images
    totals = counts.sum(axis=1, keepdims=True)
    share = np.ma.masked_invalid(
        np.divide(counts, totals, out=np.full((n, n), np.nan), where=totals > 0)
    )
    side = 2.2 + max(2.4, 0.26 * n)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#e4e4e4")  # a class without test images
    # the root of the share, so that an error of 2 % is visible next to a diagonal of 98 %
    drawn = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="none")
    if n <= 20:
        _write_counts(axes, counts, share)
    names = [_short(label) for label in data.labels]
    axes.set_xticks(range(n), names, rotation=90, parse_math=False)
    axes.set_yticks(range(n), names, parse_math=False)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(drawn, ax=axes, label="share of the true class's images", shrink=0.7)
    return figure


def _write_counts(axes: Axes, counts: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts > 0):
        colour = "white" if share[row, column] > 0.3 else "black"
        axes.text(
            column, row, str(counts[row, column]), color=colour, fontsize=6.5,
            ha="center", va="center",
        )  # fmt: skip


def _auroc(data: CardData) -> Figure:
    sets = data.evaluation.ood
    figure = Figure(figsize=(7.2, 1.3 + 0.55 * len(sets)), layout="constrained")
    axes = figure.subplots()
    scores = list(sets[0].separation)
    height = 0.8 / len(scores)
    for index, score in enumerate(scores):
        colour = _SCORE_COLOURS[(index + 1) % len(scores) % len(_SCORE_COLOURS)]  # combined: blue
        places = np.arange(len(sets)) + (index - (len(scores) - 1) / 2) * height
        values = [report.separation[score].auroc for report in sets]
        axes.barh(places, values, height * 0.92, color=colour, label=score)
        for place, value in zip(places, values, strict=True):
            axes.text(value + 0.006, place, f"{value:.3f}", fontsize=6.5, va="center")
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle="--", zorder=3)
    axes.set_yticks(range(len(sets)), [_short(r.name) for r in sets], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, 1.06), xlabel="AUROC against the test split (dashed: no separation)")
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(scores))
    return figure


def _scores(data: CardData) -> Figure:
    scores = data.score_histograms
    figure = Figure(figsize=(7.2, 0.6 + 2.1 * len(scores)), layout="constrained")
    panels = figure.subplots(len(scores), 1, squeeze=False)[:, 0]
    shown = _hardest(data.evaluation.ood, len(_SET_COLOURS))
    for axes, (score, sets) in zip(panels, scores.items(), strict=True):
        _score_panel(axes, sets, shown)
        axes.set(
            xlabel=f"{score} score (higher is more unusual; the outer bins contain the tails)",
            ylabel="share of images",
        )
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=4)
    return figure


def _score_panel(axes: Axes, sets: Mapping[str, Histogram], shown: Iterable[str]) -> None:
    test = sets[TEST]
    edges = _closed(test.edges)
    axes.stairs(_shares(test), edges, fill=True, color="#c4c4c4", label="test split")
    colours = dict(zip(shown, _SET_COLOURS, strict=False))
    for name, colour in colours.items():
        if name in sets:
            axes.stairs(_shares(sets[name]), edges, color=colour, linewidth=1.2, label=_short(name))
    axes.set_ylim(bottom=0)


def _hardest(sets: tuple[OodReport, ...], most: int) -> list[str]:
    """Return the sets that the combined score separates worst, as more lines are unreadable."""
    order = sorted(sets, key=lambda report: report.separation["combined"].auroc)
    return [report.name for report in order[:most]]


def _shares(histogram: Histogram) -> NDArray[np.float64]:
    counts = np.array(histogram.counts, np.float64)
    return np.asarray(counts / max(1.0, counts.sum()))


def _closed(edges: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the edges, with the two open bins as wide as their neighbours."""
    first = edges[1] - edges[0] if len(edges) > 1 else 1.0
    last = edges[-1] - edges[-2] if len(edges) > 1 else 1.0
    return np.array([edges[0] - first, *edges, edges[-1] + last])


def _short(name: str) -> str:
    flat = " ".join(name.split())
    return flat if len(flat) <= _NAME_LENGTH else flat[: _NAME_LENGTH - 1] + "…"
