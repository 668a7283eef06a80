"""One row for each image: what every format of the results has, and its types."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidegate.service.offline.answers import Answer, Problem

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns the rows have; the values of an image without an answer are None."""

    scores: tuple[str, ...]  # of the bundle's gate
    features: bool = False
    all_probabilities: bool = False
    rejected_too: bool = False  # whether rejected images have predictions

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns, in order."""
        names = ["index", "path", "sha256", "decision", "class_id", "label", "probability", "top_k"]
        names += ["p_value", *(f"p_{score}" for score in self.scores), "error", "error_detail"]
        names += ["features"] if self.features else []
        return tuple(names + (["probabilities"] if self.all_probabilities else []))

    def row(self, index: int, path: str, data: bytes | None, said: Answer | Problem) -> Row:
        """Return the row of one image; `data` is None if it could not be read."""
        row: Row = dict.fromkeys(self.names)
        row |= {"index": index, "path": text_of(path)}
        if data is not None:
            row["sha256"] = hashlib.sha256(data).hexdigest()
        if isinstance(said, Problem):
            return row | {"error": said.code, "error_detail": text_of(said.detail)}
        row |= {"decision": said.decision, "p_value": said.p_value}
        row |= {f"p_{name}": p for name, p in said.score_p_values.items()}
        if self.features:
            row["features"] = said.features.tolist()
        if said.decision == "reject" and not self.rejected_too:
            return row
        best = said.predictions[0]
        row |= {"class_id": best.class_id, "label": best.label, "probability": best.probability}
        row["top_k"] = [
            {"class_id": p.class_id, "label": p.label, "probability": p.probability}
            for p in said.predictions
        ]
        if self.all_probabilities:
            row["probabilities"] = said.probabilities.tolist()
        return row


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many rows have each decision, or each error code."""
    found: dict[str, int] = {}
    for row in rows:
        outcome = str(row["decision"] or row["error"])
        found[outcome] = found.get(outcome, 0) + 1
    return found


def text_of(name: str) -> str:
    """Return what has names of files as valid text: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
