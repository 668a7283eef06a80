"""Everything a model card tells, gathered in one value. The card and its plots only show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tidegate.service.bundle.evidence import ALL_CONFUSIONS_UP_TO, Comparison, Evaluation, Parity
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


@dataclass(frozen=True, slots=True)
class CardData:
    """One bundle: what it is, what it was made from, what was measured."""

    name: str
    version: str
    provenance: Provenance
    task: Task
    labels: tuple[str, ...]  # [classes]; names may repeat
    preprocess: PreprocessSpec
    parity: Parity | None  # None: the spec was written by hand
    calibration: Calibration
    gate: GateFit
    reference: ReferenceFit
    splits: Mapping[str, int]  # split name → images used
    evaluation: Evaluation
    precision: Precision = "fp32"
    comparison: Comparison | None = None  # of a variant, with fp32
    notes: tuple[str, ...] = ()  # what was changed or assumed, a sentence each
    left_out: Mapping[str, int] = field(default_factory=dict)  # split → images not decodable
    # score → set → its histogram, TEST among the sets; one score's histograms share their edges
    score_histograms: Mapping[str, Mapping[str, Histogram]] = field(default_factory=dict)

    @property
    def plots(self) -> tuple[str, ...]:
        """Return the names of the plots there is something to draw for."""
        drawn = {
            RELIABILITY: True,
            CONFUSION: self.task.classes <= ALL_CONFUSIONS_UP_TO,
            AUROC: bool(self.evaluation.ood),
            SCORES: bool(self.score_histograms),
        }
        return tuple(name for name, wanted in drawn.items() if wanted)

    def label(self, class_id: int) -> str:
        """Return a class as the card names it, its id with it as names may repeat."""
        return f"{self.labels[class_id]} ({class_id})"
