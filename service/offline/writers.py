"""The formats of the results. Parts are written one after the other, and joined at the end."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tidegate.service.errors import JobRefused
from tidegate.service.offline.rows import Columns, Row

if TYPE_CHECKING:
    import pyarrow

FORMATS = (".parquet", ".jsonl", ".csv")


class Writer(Protocol):
    """One format."""

    def part(self, rows: Sequence[Row]) -> bytes:
        """Return a part of the results."""
        ...

    def join(self, parts: Sequence[Path], out: Path, metadata: Mapping[str, str]) -> None:
        """Write all parts, in their order, into one file."""
        ...


def writer_for(out: Path, columns: Columns) -> Writer:
    """Return the writer of the format that `out` ends in. Raises JobRefused."""
    match out.suffix.lower():
        case ".jsonl":
            return JsonLines()
        case ".csv":
            return Csv(columns)
        case ".parquet":
            return Parquet(columns)
    raise JobRefused(f"--out {out}: the name must end in {', '.join(FORMATS[:-1])} or .csv.")


class JsonLines:
    """One JSON object per line; what an image does not have is null."""

    def part(self, rows: Sequence[Row]) -> bytes:
        """Return one line per row."""
        return "".join(
            json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows
        ).encode()

    def join(self, parts: Sequence[Path], out: Path, metadata: Mapping[str, str]) -> None:
        """Concatenate the parts."""
        _concatenate(parts, out, b"")


class Csv:
    """Commas and a header; lists are JSON in one field."""

    def __init__(self, columns: Columns) -> None:
        self._names = columns.names

    def part(self, rows: Sequence[Row]) -> bytes:
        """Return one line per row, without the header."""
        return self._lines([[_field(row[name]) for name in self._names] for row in rows])

    def join(self, parts: Sequence[Path], out: Path, metadata: Mapping[str, str]) -> None:
        """Write the header and the parts."""
        _concatenate(parts, out, self._lines([list(self._names)]))

    def _lines(self, lines: Sequence[Sequence[Any]]) -> bytes:
        text = _Lines()
        csv.writer(text).writerows(lines)
        return "".join(text).encode()


class _Lines(list[str]):
    """Gets lines that end in CR LF, so that `csv` quotes both characters, and ends them in LF."""

    def write(self, line: str) -> None:
        """Add a line."""
        self.append(line.removesuffix("\r\n") + "\n")


class Parquet:
    """Typed columns, one row group for each part; the metadata say which bundle answered."""

    def __init__(self, columns: Columns) -> None:
        """Raises JobRefused without pyarrow."""
        try:
            import pyarrow
        except ModuleNotFoundError as error:
            raise JobRefused(
                "Parquet needs pyarrow: pip install 'tidegate[parquet]' (in a checkout: "
                "pip install -e '.[parquet]')."
            ) from error
        self._schema = _schema(pyarrow, columns)

    def part(self, rows: Sequence[Row]) -> bytes:
        """Return a Parquet file of these rows."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pylist(list(rows), schema=self._schema)
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())

    def join(self, parts: Sequence[Path], out: Path, metadata: Mapping[str, str]) -> None:
        """Copy the parts as row groups."""
        from pyarrow import parquet

        schema = self._schema.with_metadata(dict(metadata))
        with parquet.ParquetWriter(out, schema, compression="zstd") as file:
            for part in parts:
                file.write_table(
                    parquet.ParquetFile(part).read().replace_schema_metadata(schema.metadata)
                )


def _schema(arrow: Any, columns: Columns) -> pyarrow.Schema:
    prediction = arrow.struct(
        [("class_id", arrow.int32()), ("label", arrow.string()), ("probability", arrow.float64())]
    )
    types = {
        "index": arrow.int64(),
        "class_id": arrow.int32(),
        "probability": arrow.float64(),
        "top_k": arrow.list_(prediction),
        "features": arrow.list_(arrow.float32()),
        "probabilities": arrow.list_(arrow.float64()),
    }
    numbers = {name: arrow.float64() for name in columns.names if name.startswith("p_")}
    return arrow.schema([(n, (types | numbers).get(n, arrow.string())) for n in columns.names])


def _field(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _concatenate(parts: Sequence[Path], out: Path, head: bytes) -> None:
    with out.open("wb") as file:
        file.write(head)
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file)
