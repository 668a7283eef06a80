"""A function for `DataFrame.mapInPandas`, and the schema of what it returns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas
import pyarrow

from tidegate.service.bundle.store import open_bundle
from tidegate.service.offline.predictor import Predictor
from tidegate.service.offline.tables import Rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_ROWS = Rows("content")  # of `spark.read.format("binaryFile")`
_TYPES = {"string": "string", "int32": "int", "float": "float", "double": "double"}


class Classifier:
    """A function for `mapInPandas`, with an engine per Python worker; `schema` is its result's."""

    def __init__(
        self, bundle: str | os.PathLike[str], rows: Rows = _ROWS, **predictor: Any
    ) -> None:
        """Open the bundle in a folder that every machine has; `predictor` is for Predictor.

        Raises BundleRefused.
        """
        self._bundle, self._rows, self._predictor = os.fspath(bundle), rows, predictor
        self.schema = ddl_of(rows.schema(open_bundle(Path(bundle))))

    def __call__(self, frames: Iterator[pandas.DataFrame]) -> Iterator[pandas.DataFrame]:
        """Yield frames with a row for each image."""
        predictor = _opened(self._bundle, tuple(sorted(self._predictor.items())))
        for frame in frames:
            table = pyarrow.Table.from_pandas(frame, preserve_index=False)
            yield self._rows.classify(predictor, table).to_pandas()


def classify(
    frame: DataFrame, bundle: str | os.PathLike[str], rows: Rows = _ROWS, **predictor: Any
) -> DataFrame:
    """Return a DataFrame with a row for each image of `frame`."""
    classifier = Classifier(bundle, rows, **predictor)
    return frame.mapInPandas(classifier, classifier.schema)


def ddl_of(schema: pyarrow.Schema) -> str:
    """Return the columns in the language of Spark SQL."""
    return ", ".join(f"`{field.name}` {_type_of(field.type)}" for field in schema)


def _type_of(kind: pyarrow.DataType) -> str:
    if pyarrow.types.is_list(kind) and pyarrow.types.is_struct(kind.value_type):
        inner = ", ".join(f"{one.name}: {_type_of(one.type)}" for one in kind.value_type)
        return f"array<struct<{inner}>>"
    if pyarrow.types.is_list(kind):
        return f"array<{_type_of(kind.value_type)}>"
    return _TYPES[str(kind)]


@lru_cache(maxsize=1)  # Spark gives one Python worker the tasks of many partitions
def _opened(bundle: str, predictor: tuple[tuple[str, Any], ...]) -> Predictor:
    return Predictor(bundle, **dict(predictor))
