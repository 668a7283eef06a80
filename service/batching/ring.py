"""The memory that a front end shares with the process of the engine: slots for one image each.

A slot has the pixels, which the front end writes, the outputs, which the engine's process writes,
and a note, with which the front end says what became of them.
"""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.service.memory import available_bytes
from tidegate.service.types import Float32, Outputs, Pixels

NOTE_BYTES = 2048
_PAGE = 4096
_ALIGNMENT = 64


class Layout(NamedTuple):
    """Where the parts of a slot are, for images and outputs of one version."""

    height: int
    width: int
    classes: int
    features: int
    scores: int

    @property
    def pixel_bytes(self) -> int:
        """Return the bytes of the pixels, uint8 [H, W, 3]."""
        return self.height * self.width * 3

    @property
    def outputs_at(self) -> int:
        """Return where the outputs start."""
        return _rounded(self.pixel_bytes, _ALIGNMENT)

    @property
    def note_at(self) -> int:
        """Return where the note starts."""
        floats = self.classes + self.features + self.scores
        return self.outputs_at + _rounded(8 + 4 * floats, _ALIGNMENT)

    @property
    def size(self) -> int:
        """Return the bytes of a slot, in whole pages."""
        return _rounded(self.note_at + NOTE_BYTES, _PAGE)


@dataclass(frozen=True, slots=True)
class SlotViews:
    """The parts of one slot, as arrays over the shared memory."""

    pixels: Pixels
    nearest_class: NDArray[np.int64]  # [1]
    logits: Float32  # [1, classes]
    features: Float32  # [1, D]
    scores: Float32  # [1, S]
    note: memoryview

    def write(self, outputs: Outputs) -> None:
        """Copy the outputs of one image into the slot."""
        self.logits[...] = outputs.logits
        self.features[...] = outputs.features
        self.scores[...] = outputs.scores
        self.nearest_class[...] = outputs.nearest_class

    def read(self) -> Outputs:
        """Return a copy of the outputs."""
        return Outputs(
            self.logits.copy(), self.features.copy(), self.scores.copy(), self.nearest_class.copy()
        )


class Ring:
    """A number of slots of one size in a memory that processes share by its descriptor.

    A memory without a name: /dev/shm is 64 MiB in a container. Its pages are there from the start,
    so that too little memory is an error then, and not a signal later.
    """

    def __init__(self, descriptor: int, slots: int, slot_bytes: int) -> None:
        """Map the memory behind `descriptor`, which is this object's from now on."""
        self.descriptor = descriptor
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._memory = memoryview(mmap.mmap(descriptor, slots * slot_bytes))
        self._views: dict[tuple[int, Layout], SlotViews] = {}

    @classmethod
    def create(cls, slots: int, slot_bytes: int) -> Ring:
        """Return a new memory. Raises OSError if there is not enough."""
        available = available_bytes()
        if available is not None and slots * slot_bytes > available:
            # The kernel would allocate up to the limit, and then kill a process.
            raise OSError(
                errno.ENOMEM,
                f"{slots} slots need {slots * slot_bytes >> 20} MiB of memory, and "
                f"{available >> 20} MiB are available: lower TIDEGATE_MAX_QUEUE",
            )
        descriptor = os.memfd_create("tidegate-slots", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, slots * slot_bytes)
            return cls(descriptor, slots, slot_bytes)
        except BaseException:
            os.close(descriptor)
            raise

    def views(self, slot: int, layout: Layout) -> SlotViews:
        """Return the parts of a slot. Raises ValueError if it has no such slot, or it is too small.

        They are kept: making them takes longer than a batch needs per image.
        """
        views = self._views.get((slot, layout))
        if views is None:
            views = self._views[slot, layout] = self._make(slot, layout)
        return views

    def close_descriptor(self) -> None:
        """Close the descriptor; the memory stays as long as an array of it is in use."""
        os.close(self.descriptor)

    def _make(self, slot: int, layout: Layout) -> SlotViews:
        if not 0 <= slot < self.slots or layout.size > self.slot_bytes:
            raise ValueError(f"no slot {slot} of {layout.size} bytes")
        memory = self._memory[slot * self.slot_bytes : (slot + 1) * self.slot_bytes]
        at = layout.outputs_at
        ends = np.cumsum([layout.classes, layout.features, layout.scores]).tolist()
        floats = np.frombuffer(memory, np.float32, ends[-1], at + 8)
        pixels = np.frombuffer(memory, np.uint8, layout.pixel_bytes)
        return SlotViews(
            Pixels(pixels.reshape(layout.height, layout.width, 3)),
            np.frombuffer(memory, np.int64, 1, at),
            floats[None, : ends[0]],
            floats[None, ends[0] : ends[1]],
            floats[None, ends[1] :],
            memory[layout.note_at : layout.note_at + NOTE_BYTES],
        )


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
