"""The shared memory: no part of a slot overlaps another, and both sides see the same."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.batching.ring import NOTE_BYTES, Layout, Ring
from tidegate.service.types import Outputs

layouts = st.builds(
    Layout,
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 5),
)


def outputs(layout: Layout, seed: int) -> Outputs:
    rng = np.random.default_rng(seed)

    def some(width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        return rng.random((1, width), np.float32)

    return Outputs(
        some(layout.classes), some(layout.features), some(layout.scores), np.array([seed])
    )


@given(layouts, st.integers(1, 3))
def test_what_one_side_writes_the_other_reads(layout: Layout, slots: int) -> None:
    ours = Ring.create(slots, layout.size)
    theirs = Ring(os.dup(ours.descriptor), slots, layout.size)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (slots, layout.height, layout.width, 3), np.uint8)

    for slot in range(slots):
        views = ours.views(slot, layout)
        views.pixels[...] = pixels[slot]
        views.write(outputs(layout, slot))
        views.note[:] = bytes([slot]) * NOTE_BYTES

    for slot in range(slots):
        views, expected = theirs.views(slot, layout), outputs(layout, slot)
        assert (views.pixels == pixels[slot]).all()
        assert views.note.tobytes() == bytes([slot]) * NOTE_BYTES
        read = views.read()
        assert (read.logits == expected.logits).all()
        assert (read.features == expected.features).all()
        assert (read.scores == expected.scores).all()
        assert read.nearest_class.tolist() == [slot]
    ours.close_descriptor()
    theirs.close_descriptor()


@given(layouts)
def test_a_slot_is_whole_pages(layout: Layout) -> None:
    assert layout.size % 4096 == 0
    assert layout.pixel_bytes <= layout.outputs_at < layout.note_at < layout.size


def test_a_slot_that_is_not_there_or_too_small_is_an_error() -> None:
    layout = Layout(8, 8, 3, 3, 2)
    ring = Ring.create(2, layout.size)

    for slot, wanted in ((2, layout), (-1, layout), (0, Layout(800, 800, 3, 3, 2))):
        with pytest.raises(ValueError, match="no slot"):
            ring.views(slot, wanted)
    ring.close_descriptor()


def test_more_memory_than_there_is_is_an_error_and_not_tried() -> None:
    with pytest.raises(OSError, match="lower TIDEGATE_MAX_QUEUE"):
        Ring.create(1, 1 << 50)
