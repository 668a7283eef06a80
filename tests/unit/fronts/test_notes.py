"""An observation survives the note of a slot."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.batching.ring import NOTE_BYTES
from tidegate.service.drift.duplicates import Fingerprint
from tidegate.service.fronts.notes import LONGEST_TEXT, pack_note, unpack_note
from tidegate.service.observing import Observation, Tag

FEATURES = np.arange(3, dtype=np.float32)
numbers = st.floats(allow_nan=False)
texts = st.text(max_size=70)
observations = st.builds(
    Observation,
    tag=st.builds(Tag, texts, st.none() | texts, st.booleans()),
    client=texts,
    received=numbers,
    time=numbers,
    class_id=st.integers(0, 2**32 - 1),
    probability=numbers,
    decision=st.sampled_from(["accept", "review", "reject"]),
    p_value=numbers,
    scores=st.lists(numbers, min_size=1, max_size=16).map(tuple),
    fingerprint=st.builds(
        Fingerprint,
        st.integers(0, 2**64 - 1),
        st.just(np.arange(64, dtype=np.float32)),
        numbers,
    ),
    features=st.just(FEATURES),
    total_s=numbers,
    queue_s=numbers,
    decode_s=numbers,
    engine_s=numbers,
    gates_s=numbers,
)


def fields(seen: Observation) -> dict[str, object]:
    found: dict[str, Any] = seen._asdict()
    print_ = found.pop("fingerprint")
    features = found.pop("features")
    return {
        **found,
        "print": (print_.pixels, print_.contrast, print_.cells.tolist()),
        "features": features.tolist(),
    }


@pytest.mark.lengthy
@given(observations)
def test_an_observation_is_read_as_it_was_written(seen: Observation) -> None:
    note = pack_note(seen)

    assert fields(unpack_note(memoryview(note.ljust(NOTE_BYTES, b"x")), FEATURES)) == fields(seen)


@pytest.mark.lengthy
@given(observations, st.integers(LONGEST_TEXT + 1, 100_000))
def test_a_note_is_bounded(seen: Observation, length: int) -> None:
    long = seen._replace(tag=Tag("i" * length, "k" * length), client="c" * length)

    note = pack_note(long)

    assert len(note) <= NOTE_BYTES
    read = unpack_note(memoryview(note), FEATURES)
    assert len({read.tag.image_id, read.tag.key, read.client}) == 3


@given(st.binary(max_size=NOTE_BYTES))
def test_anything_else_is_an_error_or_an_observation(note: bytes) -> None:
    with contextlib.suppress(ValueError):
        unpack_note(memoryview(note), FEATURES)


def test_an_empty_note_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a note"):
        unpack_note(memoryview(b""), FEATURES)
