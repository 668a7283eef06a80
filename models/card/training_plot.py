"""The curves of a training."""

from __future__ import annotations

from itertools import pairwise

from matplotlib.figure import Figure

from tidegate.models.card.card_data import CardData

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#6b6b6b"


def training_plot(data: CardData) -> Figure:
    """Return losses and accuracies by epoch; dotted lines are the stages, a dot the kept epoch.

    `data.training` has at least two epochs.
    """
    record = data.training
    assert record is not None  # noqa: S101  # CardData.plots
    epochs = record.epochs
    places = range(1, len(epochs) + 1)
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(places, [e.loss for e in epochs], color=ORANGE, label="training loss")
    left.plot(places, [e.nll for e in epochs], color=BLUE, label="NLL of the slice")
    left.set(xlabel="epoch", ylabel="nats", ylim=(0, None))
    for values, colour, name in (
        ([e.accuracy for e in epochs], BLUE, "accuracy"),
        ([e.balanced_accuracy for e in epochs], GREEN, "balanced accuracy"),
    ):
        right.plot(places, values, color=colour, label=name)
    right.set(xlabel="epoch", ylabel="share of the slice", ylim=(None, 1.0))
    best = {stage.name: stage.best.number for stage in record.stages}[record.kept]
    kept = next(
        i for i, e in enumerate(epochs, start=1) if (e.stage, e.number) == (record.kept, best)
    )
    for axes, value in ((left, epochs[kept - 1].nll), (right, epochs[kept - 1].accuracy)):
        for at, (before, after) in enumerate(pairwise(epochs), start=1):
            if before.stage != after.stage:
                axes.axvline(at + 0.5, color=GREY, linewidth=1, linestyle=":")
        axes.plot([kept], [value], "o", color=BLUE, markersize=5)
        axes.legend()
    return figure
