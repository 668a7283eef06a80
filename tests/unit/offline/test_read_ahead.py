"""Objects of buckets are read side by side, within a bound, and given out in their order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tidegate.service.distribution.place import FileMissing
from tidegate.service.errors import TransferFailed
from tidegate.service.offline import read_ahead
from tidegate.service.offline.answers import Problem
from tidegate.service.offline.read_ahead import entries
from tidegate.service.offline.sources import Item

SIDE_BY_SIDE, PATIENCE_S = 4, 60
MOST = 100


def test_objects_are_read_side_by_side_and_given_out_in_order() -> None:
    together = threading.Barrier(SIDE_BY_SIDE)

    def item(number: int) -> Item:
        def read(most: int) -> bytes:
            together.wait(PATIENCE_S)  # passes only if so many are read at once
            return str(number).encode()

        return Item(f"s3://b/{number}.jpg", read, is_remote=True)

    found = list(entries(enumerate(map(item, range(12))), MOST, SIDE_BY_SIDE))

    assert [(index, content) for index, _, content in found] == [
        (number, str(number).encode()) for number in range(12)
    ]


def test_members_of_archives_are_read_on_this_thread_between_objects(tmp_path: Path) -> None:
    threads: list[threading.Thread] = []

    def read(most: int) -> bytes:
        threads.append(threading.current_thread())
        return b"x" * most

    items = [Item("o", lambda most: b"o", True), Item("m", read), Item("f", tmp_path)]

    found = list(entries(enumerate(items), MOST))

    assert [name for _, name, _ in found] == ["o", "m", "f"]
    assert [content for *_, content in found] == [b"o", b"x" * (MOST + 1), tmp_path]
    assert threads == [threading.current_thread()]


def _fail(error: Exception) -> Item:
    def read(most: int) -> bytes:
        raise error

    return Item(str(error), read, is_remote=True)


def test_an_object_that_is_gone_is_a_row_and_a_store_that_fails_ends_the_job() -> None:
    good = Item("good", lambda most: b"good", is_remote=True)
    items = [good, _fail(FileMissing("gone")), good, _fail(TransferFailed("denied"))]
    found: Iterator[object] = entries(enumerate(items), MOST)

    assert next(found) == (0, "good", b"good")
    gone = next(found)
    assert isinstance(gone, tuple)
    assert isinstance(gone[2], Problem)
    assert next(found) == (2, "good", b"good")
    with pytest.raises(TransferFailed, match="denied"):
        next(found)


@pytest.mark.parametrize(
    ("sizes", "is_room"),
    [
        ([], True),
        ([100, None], True),  # None: not read yet, so perhaps 100 bytes
        ([100, 100, 100], False),
        ([None, None, None], False),
        ([1] * 7, True),
        ([1] * 8, False),
    ],
)
def test_what_is_read_ahead_is_bounded(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int | None], is_room: bool
) -> None:
    monkeypatch.setattr(read_ahead, "_THREAD_BYTES", 75)  # 300 for four threads
    waiting: deque[tuple[int, str, Future[bytes | Problem]]] = deque()
    for size in sizes:
        read: Future[bytes | Problem] = Future()
        if size is not None:
            read.set_result(bytes(size))
        waiting.append((0, "", read))

    assert read_ahead._is_room(waiting, MOST, 4) == is_room
