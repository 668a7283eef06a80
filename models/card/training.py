"""How the network was trained, as a section of the model card."""

from __future__ import annotations

from tidegate.models.card.card_data import TRAINING, CardData
from tidegate.models.card.markdown import number, percent, table
from tidegate.models.training_record import StageRecord, TrainingRecord


def training_section(data: CardData) -> str:
    """Return the section, "" for a model that was trained elsewhere."""
    record = data.training
    if record is None:
        return ""
    images = ", ".join(f"{count:,} for {use}" for use, count in record.images.items())
    return (
        "## Training\n\n"
        f"Recipe {record.recipe}, seed {record.seed}, with {', '.join(record.versions)}. "
        f"{record.why}\n"
        f"Images of train: {images}.\n"
        + "".join(f"{note}\n" for note in record.notes)
        + _stages(record)
        + (f"\n![Curves of the training]({TRAINING})\n" if TRAINING in data.plots else "")
        + "\nThe settings:\n\n"
        + table(("setting", "value"), list(record.settings.items()))
    )


def _stages(record: TrainingRecord) -> str:
    if not record.stages:
        return ""
    header = ("stage", "trains", "epochs", "best epoch", "NLL", "accuracy", "balanced accuracy")
    return (
        "\n"
        + table(header, [_row(stage) for stage in record.stages])
        + "\nNLL (at the best temperature) and accuracies are those of the best epoch on the slice "
        "of train that chose it, so they are too good; the results below are not.\n"
        f"The weights are those of the stage “{record.kept}”.\n"
    )


def _row(stage: StageRecord) -> tuple[str, ...]:
    best = stage.best
    return (
        stage.name,
        stage.words,
        f"{stage.epochs} ({stage.ended})",
        str(best.number),
        number(best.nll),
        percent(best.accuracy),
        percent(best.balanced_accuracy),
    )
