"""Classify Arrow tables, with the rows of `tidegate classify`: what Ray and Spark run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tidegate.service.bundle.store import Bundle
from tidegate.service.offline.predictor import Predictor
from tidegate.service.offline.rows import Columns
from tidegate.service.offline.sources import bytes_of
from tidegate.service.offline.writers import schema_of

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, slots=True)
class Rows:
    """Which columns the images come from, and what the rows of the result have.

    The result has the columns of `tidegate classify`, without `index`.
    """

    image: str  # the column of encoded images: bytes, or `{bytes, path}`
    path: str | None = "path"  # the column with their names; None: there is none
    top_k: int = 5
    features: bool = False
    all_probabilities: bool = False
    ood_action: Literal["reject", "flag"] = "reject"

    def schema(self, bundle: Bundle) -> pyarrow.Schema:
        """Return the columns of the result with their types."""
        full = schema_of(self._columns(bundle))
        return full.remove(full.get_field_index("index"))

    def classify(self, predictor: Predictor, table: pyarrow.Table) -> pyarrow.Table:
        """Return a row for each image of a table, in its order."""
        import pyarrow

        images = [bytes_of(value) for value in table.column(self.image).to_pylist()]
        paths = [""] * len(images) if self.path is None else table.column(self.path).to_pylist()
        columns = self._columns(predictor.bundle)
        answers = predictor.predict(images, top_k=self.top_k)
        rows = [
            columns.row(0, path, image, answer)
            for path, image, answer in zip(paths, images, answers, strict=True)
        ]
        return pyarrow.Table.from_pylist(rows, schema=self.schema(predictor.bundle))

    def _columns(self, bundle: Bundle) -> Columns:
        return Columns(
            tuple(bundle.gate.folds_a),
            features=self.features,
            all_probabilities=self.all_probabilities,
            rejected_too=self.ood_action == "flag",
        )
