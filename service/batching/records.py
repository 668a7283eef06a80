"""The records between a front end and the process of the engine: 32 bytes each. Pure.

A record that goes through a system call needs no memory barrier: what was written to the shared
slot before it is there when the record is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

_FORM = struct.Struct("<BBHIddd")
BYTES = _FORM.size


class Kind(IntEnum):
    """What a record says. The first four go to the engine's process, the last comes from it."""

    READY = 1  # the pixels are in the slot
    CANCEL = 2  # the request has left
    RELEASE = 3  # the answer was read; `code` is 1 if the slot has a note
    CLOSED = 4  # a connection was closed; `slot` is its number
    DONE = 5  # the engine has finished with the slot


class Status(IntEnum):
    """How an image ended, as `code` of DONE."""

    ANSWERED = 0
    LATE = 1  # dropped, as the deadline could no longer be met
    FAILED = 2  # the engine could not compute it
    NO_MEMORY = 3  # the device had too little memory for it
    CANCELLED = 4


class Record(NamedTuple):
    """One record. What a kind does not use is 0."""

    kind: int
    code: int = 0  # READY: the priority; DONE: the status
    number: int = 0  # READY: the lane; DONE: the images of the batch
    slot: int = 0
    first: float = 0.0  # READY: the deadline; DONE: from ready to dispatched, in seconds
    second: float = 0.0  # READY: how far its turn is, in seconds; DONE: seconds of the engine
    third: float = 0.0  # READY: the haste; DONE: when the engine began, on time.monotonic()


class RecordReader:
    """Cuts a stream into records."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Record]:
        """Yield the records that are complete with this data; keep the rest for the next call."""
        if self._rest:
            data = self._rest + data
        end = len(data) - len(data) % BYTES
        self._rest = data[end:]
        return map(Record._make, _FORM.iter_unpack(data[:end]))


def pack(record: Record) -> bytes:
    """Return a record's bytes."""
    return _FORM.pack(*record)
