"""A linear layer on the features of a frozen backbone: the recipe for few images.

The backbone is an importer's or a sealed bundle's. It is run as the exported graph that is sealed,
so this needs no torch, and the features are those that the service computes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tidegate.models.data.folders import Item, Split
from tidegate.models.data.training_data import TrainingData
from tidegate.models.graphs.new_head import with_head
from tidegate.models.importers.base import Imported
from tidegate.models.parity.export import check_export
from tidegate.models.progress import say
from tidegate.models.training.features import Features, features
from tidegate.models.training.linear_head import BALANCES, LinearHead, fit_head
from tidegate.models.training_record import TrainingRecord
from tidegate.service.files import sha256_of

_CHECKED = 32  # training images, of which the first that can be decoded check the export


@dataclass(frozen=True, slots=True)
class Probe:
    """A fitted linear layer, and what it was fitted on."""

    head: LinearHead
    features: Features


def fit(source: Imported, data: TrainingData, *, seed: int, cache: Path) -> Probe:
    """Fit a linear layer for the classes of `data` to the features of `source` on its train split.

    Features are kept in the folder `cache`. Nothing is read from calibrate and test. Raises
    BuildRefused if too many images cannot be decoded.
    """
    found = features(source.backbone, source.spec, data.train, cache)
    head = fit_head(found.values, found.class_ids, len(data.classes), seed)
    for line in comparison(head):
        say(line)
    return Probe(head, found)


def imported(source: Imported, data: TrainingData, *, why: str, seed: int, cache: Path) -> Imported:
    """Return `source` with a linear layer for the classes of `data` as its last one.

    `why` says why this recipe was chosen, for the card. The preprocessing stays that of `source`.
    Raises BuildRefused if the exported graph of `source` is not its framework's model, or see
    `fit`.
    """
    if source.forward is not None:
        check_export(source, source.spec, _first_images(data))
    found = fit(source, data, seed=seed, cache=cache)
    head = found.head
    return replace(
        source,
        backbone=with_head(source.backbone, head.weights, head.bias),
        forward=None,
        source=f"a linear layer on the features of {source.source}",
        labels=data.classes,
        notes=(*source.notes, "The last layer was trained by Tidegate; all others are as given."),
        rivals=(),
        training=_record(source, found, why, seed),
    )


def comparison(head: LinearHead) -> list[str]:
    """Return a line for each way that cross-validation compared, for the console and the card."""
    lines = []
    for name in BALANCES:
        if (one := head.validated.get(name)) is not None:
            chosen = " (chosen)" if name == head.balance and len(head.validated) > 1 else ""
            lines.append(
                f"Linear layer, {name}{chosen}: accuracy {one.accuracy:.1%}, balanced accuracy "
                f"{one.balanced_accuracy:.1%}, by cross-validation inside train."
            )
    return lines


def _first_images(data: TrainingData) -> Split:
    items = (
        Item(image.path, image.class_id, sha256_of(image.path)) for image in data.train[:_CHECKED]
    )
    return Split("train", tuple(items))


def _record(source: Imported, found: Probe, why: str, seed: int) -> TrainingRecord:
    head = found.head
    counts = Counter(found.features.class_ids.tolist())
    ratio = max(counts.values()) / min(counts.values())
    return TrainingRecord(
        recipe="probe",
        why=why,
        seed=seed,
        images={"training": len(found.features.class_ids)},
        settings={
            "backbone": source.source,
            "features": str(found.features.values.shape[1]),
            "penalty": f"{head.validated[head.balance].decay:g}, chosen by cross-validation",
            "imbalance": f"{head.balance}; the largest class has {ratio:.1f} × the images of the "
            "smallest",
        },
        versions=(f"scikit-learn {version('scikit-learn')}",),
        kept="probe",
        notes=(*comparison(head), *_on_imbalance(head)),
    )


def _on_imbalance(head: LinearHead) -> Sequence[str]:
    if head.balance == "natural":
        return ()
    return (
        "The layer treats all classes as equally frequent, so rare classes are answered more often "
        "than they occur.",
    )
