"""Classify a Ray Dataset with actors, each of which has a predictor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tidegate.service.offline.predictor import Predictor
from tidegate.service.offline.tables import Rows

if TYPE_CHECKING:
    import pyarrow
    from ray.data import Dataset

BATCH_IMAGES = 64
_ROWS = Rows("bytes")  # of `ray.data.read_binary_files(…, include_paths=True)`


class Classifier:
    """A class for `Dataset.map_batches` with `batch_format="pyarrow"`."""

    def __init__(
        self, bundle: str | os.PathLike[str], rows: Rows = _ROWS, **predictor: Any
    ) -> None:
        """Open the bundle in a folder that every node has; `predictor` is for Predictor.

        Raises BundleRefused or EngineUnavailable.
        """
        self._rows = rows
        self._predictor = Predictor(bundle, **predictor)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Return a row for each image of a batch."""
        return self._rows.classify(self._predictor, batch)


def classify(
    dataset: Dataset,
    bundle: str | os.PathLike[str],
    rows: Rows = _ROWS,
    *,
    concurrency: int | tuple[int, int],
    predictor: dict[str, Any] | None = None,
    **options: Any,
) -> Dataset:
    """Return a dataset with a row for each image of `dataset`.

    `concurrency` is the number of actors, or its bounds; each actor uses one core unless `options`
    for `map_batches` say otherwise. What an actor that dies was working on is done again.
    """
    return dataset.map_batches(
        Classifier,
        fn_constructor_args=(bundle, rows),
        fn_constructor_kwargs=predictor or {},
        concurrency=concurrency,
        batch_format="pyarrow",
        **{"batch_size": BATCH_IMAGES, "num_cpus": 1, **options},
    )
