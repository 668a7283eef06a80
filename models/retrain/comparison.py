"""Compare two versions of a model on the same labelled images, as the service would answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.outputs import in_order, load_pixels
from tidegate.models.data.training_data import Labelled
from tidegate.models.evaluation.intervals import wilson_share
from tidegate.models.evaluation.paired import CLEARLY, Paired
from tidegate.models.evaluation.probabilities import ece, score_predictions
from tidegate.models.graphs.session import quiet_session
from tidegate.models.progress import follow
from tidegate.service.bundle.evidence import Share
from tidegate.service.bundle.store import Bundle
from tidegate.service.errors import RequestError
from tidegate.service.types import OUTPUT_NAMES, Decision


@dataclass(frozen=True, slots=True)
class Answers:
    """What a bundle answers to some images."""

    accuracy: Share
    balanced_accuracy: float
    nll: float  # nats
    ece: float
    decisions: Mapping[Decision, int]  # → images
    right: NDArray[np.bool_]  # [n]

    def share(self, decision: Decision) -> float:
        """Return the share of the images with this decision."""
        return self.decisions.get(decision, 0) / len(self.right)


@dataclass(frozen=True, slots=True)
class Compared:
    """The answers of the old and the new version to the same images."""

    old: Answers
    new: Answers

    @property
    def corrected(self) -> int:
        """Return the number of images that only the new version recognises."""
        return int((self.new.right & ~self.old.right).sum())

    @property
    def broken(self) -> int:
        """Return the number of images that only the old version recognises."""
        return int((self.old.right & ~self.new.right).sum())

    @property
    def p_value(self) -> float:
        """Return the p-value of McNemar's exact test that both are right equally often."""
        return Paired.of(self.new.right, self.old.right).p_value

    @property
    def is_clearly_worse(self) -> bool:
        """Return whether the new version is wrong more often, beyond chance."""
        return self.broken > self.corrected and self.p_value < CLEARLY


def compare(old: Bundle, new: Bundle, images: Sequence[Labelled], what: str) -> Compared:
    """Return the answers of both to `images`, of which there is at least one; `what` names them."""
    return Compared(
        answers(old, images, f"{what}, version {old.manifest.version}"),
        answers(new, images, f"{what}, version {new.manifest.version}"),
    )


def answers(bundle: Bundle, images: Sequence[Labelled], what: str) -> Answers:
    """Return what `bundle` answers to `images`; an image that it cannot decode counts as wrong."""
    session = quiet_session(bundle.model_path.read_bytes())

    def work(image: Labelled) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        try:
            pixels = load_pixels(image.path, bundle.manifest.preprocess)
        except RequestError:
            return None
        logits, _, scores, _ = session.run(OUTPUT_NAMES, {"pixels": pixels[None]})
        return logits[0], scores[0]

    rows = list(in_order(work, follow(images, f"Comparing on {what}")))
    kept = [at for at, row in enumerate(rows) if row is not None]
    found = [row for row in rows if row is not None]
    logits = np.stack([row[0] for row in found])
    class_ids = np.array([images[at].class_id for at in kept], np.int64)
    temperature = bundle.manifest.calibration.temperature
    predictions = score_predictions(logits, class_ids, temperature)
    right = np.zeros(len(images), bool)
    right[kept] = predictions.predicted == class_ids
    decisions = Counter(
        bundle.gate.judge(scores.tolist(), int(top)).decision
        for (_, scores), top in zip(found, predictions.predicted, strict=True)
    )
    return Answers(
        accuracy=wilson_share(int(right.sum()), len(right)),
        balanced_accuracy=_balanced(right, np.array([image.class_id for image in images])),
        nll=float(predictions.nll.mean()),
        ece=ece(predictions.confidence, right[kept]),
        decisions=decisions,
        right=right,
    )


def _balanced(right: NDArray[np.bool_], class_ids: NDArray[np.int64]) -> float:
    return float(np.mean([right[class_ids == c].mean() for c in np.unique(class_ids)]))
