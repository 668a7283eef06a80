"""The data of a model card. The card and its plots only display it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate.models.evaluation.expected_share import ExpectedShares
from tidegate.models.fitting.side_by_side import SideBySide
from tidegate.models.training_record import TrainingRecord
from tidegate.service.bundle.evidence import (
    ALL_CONFUSIONS_UP_TO,
    Comparison,
    Coverage,
    Evaluation,
    Parity,
)
from tidegate.service.bundle.manifest import (
    Calibration,
    GateFit,
    Histogram,
    Precision,
    Provenance,
    ReferenceFit,
    Task,
)
from tidegate.service.imaging.spec import PreprocessSpec

RELIABILITY = "card/reliability.svg"
CONFUSION = "card/confusion.svg"
AUROC = "card/ood-auroc.svg"
SCORES = "card/scores.svg"
TRAINING = "card/training.svg"


@dataclass(frozen=True, slots=True)
class CardData:
    """One bundle: its identity, its sources and its measurements."""

    name: str
    version: str
    provenance: Provenance
    task: Task
    labels: tuple[str, ...]  # [classes]; labels may repeat
    preprocess: PreprocessSpec
    parity: Parity | None  # None: the spec was written by hand
    calibration: Calibration
    gate: GateFit
    reference: ReferenceFit
    splits: Mapping[str, int]  # split name → images used
    evaluation: Evaluation
    expected: ExpectedShares  # of the evaluation, if nothing but chance decides
    coverage: Coverage
    precision: Precision = "fp32"
    comparison: Comparison | None = None  # with fp32, for a variant
    rejected_in_fp32: float | None = None  # share of the test images, for a variant
    notes: tuple[str, ...] = ()  # changes and assumptions, one sentence each
    left_out: Mapping[str, int] = field(
        default_factory=dict
    )  # split → images that were not decodable
    # score → set → histogram; TEST is one of the sets; a score's histograms share their edges
    score_histograms: Mapping[str, Mapping[str, Histogram]] = field(default_factory=dict)

    training: TrainingRecord | None = None  # None: trained elsewhere
    side_by_side: SideBySide | None = None  # of a distillation

    @property
    def plots(self) -> tuple[str, ...]:
        """Return the names of the plots that have data."""
        drawn = {
            RELIABILITY: True,
            CONFUSION: self.task.classes <= ALL_CONFUSIONS_UP_TO,
            AUROC: bool(self.evaluation.ood),
            SCORES: bool(self.score_histograms),
            TRAINING: self.training is not None and len(self.training.epochs) > 1,
        }
        return tuple(name for name, wanted in drawn.items() if wanted)

    def label(self, class_id: int) -> str:
        """Return a class's label and id, as labels may repeat."""
        return f"{self.labels[class_id]} ({class_id})"
