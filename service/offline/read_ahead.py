"""Gives each image to the workers in order; objects of buckets are read before their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tidegate.service.offline import sources
from tidegate.service.offline.answers import Problem
from tidegate.service.offline.sources import Item
from tidegate.service.offline.workers import Entry, unreadable

THREADS = 8  # for each process that classifies
_MOST_THREADS = 64
_THREAD_BYTES = 16 << 20  # of memory for what is read ahead, for each thread

_Read = Future[bytes | Problem]


def threads_for(processes: int) -> int:
    """Return how many objects are read at once: a store answers each after tens of ms."""
    return min(_MOST_THREADS, THREADS * processes)


def entries(
    items: Iterable[tuple[int, Item]], most: int, threads: int = THREADS
) -> Iterator[Entry]:
    """Yield what workers need, in order. What is not a file is read here, one byte beyond `most`.

    What is read ahead takes at most 16 MiB for each thread, or the longest object.
    """
    waiting: deque[tuple[int, str, _Read]] = deque()
    pool = ThreadPoolExecutor(threads, "read-ahead")
    try:
        for index, item in items:
            while waiting and (waiting[0][2].done() or not _is_room(waiting, most, threads)):
                yield _first(waiting)
            if item.is_remote and not isinstance(item.content, Path):
                waiting.append((index, item.name, pool.submit(_content, item.content, most + 1)))
                continue
            while waiting:
                yield _first(waiting)
            content = item.content
            yield (
                index,
                item.name,
                content if isinstance(content, Path) else _content(content, most + 1),
            )
        while waiting:
            yield _first(waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _first(waiting: deque[tuple[int, str, _Read]]) -> Entry:
    index, name, read = waiting.popleft()
    return index, name, read.result()


def _is_room(waiting: deque[tuple[int, str, _Read]], most: int, threads: int) -> bool:
    """Return whether another object may be read, however long it and those in flight are."""
    taken = sum(_size(read, most) for _, _, read in waiting)
    return len(waiting) < 2 * threads and taken + most <= threads * _THREAD_BYTES


def _size(read: _Read, most: int) -> int:
    if not read.done() or read.exception() is not None:
        return most
    content = read.result()
    return len(content) if isinstance(content, bytes) else 0


def _content(read: Callable[[int], bytes], most: int) -> bytes | Problem:
    try:
        return read(most)
    except sources.READ_ERRORS as error:
        return unreadable(error)
