"""The notes of a set on disk: some 45 bytes for each image, and pictures of the most unusual ones.

Each part of a job has a file, and the result of a job or of a shard has one, from which the report
is made. The order of the images is kept, so that images in runs are noticed.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.drift.duplicates import Fingerprint
from tidegate.service.drift.reference import INPUTS, Reference
from tidegate.service.errors import JobRefused
from tidegate.service.npz import read_npz
from tidegate.service.offline.drift.notes import PICTURES, Noted

FORMAT = "tidegate-notes/1"
DECISIONS = ("accept", "review", "reject")
REJECT = DECISIONS.index("reject")
_COLUMNS = {
    "index": np.int64,  # among the images of this shard
    "key": np.uint64,  # equal for near-duplicates
    "class_id": np.int32,
    "probability": np.float64,
    "p_value": np.float64,
    "decision": np.uint8,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """An unusual image of the contact sheet."""

    index: int
    path: str
    p_value: float
    score: float  # combined: orders images of one p-value
    decision: str
    class_id: int
    probability: float
    key: int
    jpeg: str  # base64

    @property
    def rank(self) -> tuple[float, float, int]:
        """Return what it is sorted by; the most unusual image has the smallest."""
        return self.p_value, -self.score, self.index


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes of some images, in their order."""

    columns: Mapping[str, NDArray[Any]]  # [n] each
    inputs: NDArray[np.uint8]  # [n, statistics]: their bins, in the order of `watched`
    parts: NDArray[np.int64]  # how many of the images each part has
    feature_sum: NDArray[np.float64]  # [D], near-duplicates of a part counted once
    feature_images: int
    shown: tuple[Shown, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)  # of a whole file

    def __len__(self) -> int:
        return len(self.columns["index"])


def watched(reference: Reference) -> tuple[str, ...]:
    """Return the names of the input statistics that the bundle has a reference for."""
    return tuple(name for name in INPUTS if name in reference.histograms)


class Collector:
    """Collects the notes of a part, from one after the other."""

    def __init__(self, reference: Reference) -> None:
        self._bins = {name: reference.histograms[name] for name in watched(reference)}
        self._width = 0 if reference.embedding is None else len(reference.embedding.mean)
        self._begin()

    def _begin(self) -> None:
        self._rows: list[tuple[int, int, int, float, float, int]] = []
        self._inputs: list[list[int]] = []
        self._last: Fingerprint | None = None  # the last one that was not like the one before
        self._sum = np.zeros(self._width)
        self._summed: set[int] = set()  # keys
        self._shown: dict[int, Shown] = {}  # by key

    def add(self, index: int, path: str, noted: Noted) -> None:
        """Add an image, in the order of the set."""
        seen = noted.fingerprint
        if self._last is None or not seen.is_like(self._last):
            self._last = seen
        key, rejected = self._last.pixels, noted.decision == "reject"
        self._rows.append(
            (index, key, noted.class_id, noted.probability, noted.p_value,
             DECISIONS.index(noted.decision))
        )  # fmt: skip
        self._inputs.append(
            [int(b.places(np.array([noted.inputs[n]]))[0]) for n, b in self._bins.items()]
        )
        if noted.features is not None and not rejected and key not in self._summed:
            self._summed.add(key)
            self._sum += noted.features
        if noted.picture is not None:
            self._show(index, path, key, noted)

    def _show(self, index: int, path: str, key: int, noted: Noted) -> None:
        assert noted.picture is not None  # noqa: S101 - narrows for the type checker
        (p_value, minus_score, _), jpeg = noted.picture
        shown = Shown(
            index, path, p_value, -minus_score, noted.decision, noted.class_id,
            noted.probability, key, base64.b64encode(jpeg).decode(),
        )  # fmt: skip
        if key not in self._shown or shown.rank < self._shown[key].rank:
            self._shown[key] = shown
        if len(self._shown) > 2 * PICTURES:
            self._shown = {one.key: one for one in most_unusual(self._shown.values())}

    def part(self) -> bytes:
        """Return the notes since the last part as a file, and begin the next part."""
        kinds = _COLUMNS.values()
        found = list(zip(*self._rows, strict=True)) or [()] * len(kinds)
        columns = {
            name: np.array(values, kind)
            for (name, kind), values in zip(_COLUMNS.items(), found, strict=True)
        }
        notes = Notes(
            columns,
            np.array(self._inputs, np.uint8).reshape(len(self._rows), len(self._bins)),
            np.array([len(self._rows)]),
            self._sum,
            len(self._summed),
            most_unusual(self._shown.values()),
        )
        self._begin()
        return written(notes)


def most_unusual(shown: Iterable[Shown]) -> tuple[Shown, ...]:
    """Return the most unusual images, the first one the most; of like images one."""
    found: dict[int, Shown] = {}
    for one in sorted(shown, key=lambda one: one.rank):
        found.setdefault(one.key, one)
    return tuple(list(found.values())[:PICTURES])


def joined(notes: Sequence[Notes], facts: Mapping[str, Any]) -> Notes:
    """Join notes in their order; `facts` describe the whole."""
    return Notes(
        {name: np.concatenate([one.columns[name] for one in notes]) for name in _COLUMNS},
        np.concatenate([one.inputs for one in notes]),
        np.concatenate([one.parts for one in notes]),
        np.sum([one.feature_sum for one in notes], axis=0),
        sum(one.feature_images for one in notes),
        most_unusual(shown for one in notes for shown in one.shown),
        facts,
    )


def written(notes: Notes) -> bytes:
    """Return notes as a file."""
    content = io.BytesIO()
    arrays: dict[str, NDArray[Any]] = {
        **notes.columns,
        "inputs": notes.inputs,
        "parts": notes.parts,
        "feature_sum": notes.feature_sum,
        "feature_images": np.array([notes.feature_images]),
        "shown": _text([asdict(one) for one in notes.shown]),
        "facts": _text({"format": FORMAT, **notes.facts}),
    }
    np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy's stub mixes up **kwds
    return content.getvalue()


def read(path: Path) -> Notes:
    """Return the notes in a file. Raises JobRefused."""
    try:
        content = path.read_bytes()
        found = read_npz(content, most_bytes=len(content) + 1)
        facts = json.loads(found["facts"].tobytes())
        if facts.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        columns = {name: found[name].astype(kind) for name, kind in _COLUMNS.items()}
        lengths = {len(column) for column in (*columns.values(), found["inputs"])}
        if lengths != {int(found["parts"].sum())}:
            raise ValueError("its columns have different lengths")
        return Notes(
            columns,
            found["inputs"].astype(np.uint8),
            found["parts"].astype(np.int64),
            found["feature_sum"].astype(np.float64),
            int(found["feature_images"][0]),
            tuple(Shown(**one) for one in json.loads(found["shown"].tobytes())),
            facts,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobRefused(f"{path} is not the notes of a set: {error}.") from error


def _text(value: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)
