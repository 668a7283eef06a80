"""Processes that classify, one for each core. One that dies loses nothing but its own image.

One that hangs is ended by a timer of its own, so that it dies, too.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tidegate.service import memory
from tidegate.service.errors import (
    DeadlineMissed,
    EngineFailed,
    EngineUnavailable,
    TidegateError,
    UploadTooLarge,
)
from tidegate.service.files import read_small
from tidegate.service.offline.answers import Answer, Problem, problem_of
from tidegate.service.offline.rows import Columns, Row

if TYPE_CHECKING:
    from tidegate.service.offline.drift.notes import Noted, NoteTaker
    from tidegate.service.offline.predictor import Predictor

CHUNK_IMAGES = 16
_TRIM_CHUNKS = 64  # after so many, a process gives free memory back: large images leave holes
_CHUNK_BYTES = 32 << 20
# In a row. A chunk whose images all end their process causes 31: it and all halves of it.
_MOST_DEATHS = 64
_AHEAD = 2  # chunks for each worker: one that it computes, and one that waits
# To read and classify a batch of an engine. The service gives its decoder processes as long: far
# more than the limit on an image's work allows, even on a very busy machine.
IMAGE_TIMEOUT_S = 60.0

Entry = tuple[int, str, Path | bytes | Problem]  # index, name, and the file or its content


@dataclass(frozen=True, slots=True)
class Work:
    """What every worker needs."""

    predictor: Predictor
    columns: Columns
    top_k: int
    notes: bool = False  # whether a drift report is wanted
    timeout_s: float = IMAGE_TIMEOUT_S  # for a batch; then its process ends


class Classified(NamedTuple):
    """The row of one image, and what is noted of it for a drift report."""

    row: Row
    noted: Noted | None


class Workers:
    """Classifies entries in order. Use as a context manager."""

    def __init__(self, work: Work, processes: int) -> None:
        self._work = work
        self._processes = processes
        self._pool = self._start()
        self._is_broken = False
        self._deaths = 0  # since the last chunk that was classified

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def classified(self, entries: Iterable[Entry]) -> Iterator[Classified]:
        """Yield the row of each entry, in their order, while later ones are computed."""
        waiting: deque[tuple[list[Entry], Future[list[Classified]]]] = deque()
        chunks = _chunks(entries)
        while True:
            while len(waiting) < _AHEAD * self._processes:
                chunk = next(chunks, None)
                if chunk is None:
                    break
                waiting.append((chunk, self._submit(chunk)))
            if not waiting:
                return
            chunk, future = waiting.popleft()
            try:
                done = future.result()
            except BrokenProcessPool:
                self._is_broken = True
                lost = [chunk, *(later for later, _ in waiting)]
                waiting.clear()
                for each in lost:
                    yield from self._again(each)
            else:
                self._deaths = 0
                yield from done

    def _submit(self, chunk: list[Entry]) -> Future[list[Classified]]:
        # A process that this starts inherits the mask: only this one gets Ctrl-C.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            return self._pool.submit(_classify, chunk)
        except BrokenProcessPool as error:
            failed = Future[list[Classified]]()
            failed.set_exception(error)
            return failed
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _again(self, chunk: list[Entry]) -> list[Classified]:
        """Classify a chunk whose process may have died: alone, and then by halves."""
        if self._is_broken:
            self._restart()
        began = time.monotonic()
        try:
            return self._alone(chunk)
        except BrokenProcessPool:
            if len(chunk) > 1:
                half = len(chunk) // 2
                return [*self._again(chunk[:half]), *self._again(chunk[half:])]
        return [self._lost(chunk[0], time.monotonic() - began)]

    def _lost(self, entry: Entry, seconds: float) -> Classified:
        """Return the row of an image whose process died after so many seconds."""
        reason: TidegateError = EngineFailed("The process that classified this image died.")
        if seconds >= self._work.timeout_s:
            reason = DeadlineMissed(f"This image took more than {self._work.timeout_s:g} s.")
        index, name, content = entry
        row = self._work.columns.row(index, name, _data(content), problem_of(reason))
        return Classified(row, None)

    def _alone(self, chunk: list[Entry]) -> list[Classified]:
        try:
            done = self._submit(chunk).result()
        except BrokenProcessPool as error:
            self._is_broken = True
            self._deaths += 1
            if self._deaths >= _MOST_DEATHS:
                raise EngineUnavailable(
                    f"The processes that classify died {_MOST_DEATHS} times in a row. Is there "
                    "enough memory?"
                ) from error
            raise
        self._deaths = 0
        return done

    def _restart(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool, self._is_broken = self._start(), False
        try:
            self._submit([]).result()  # so that no image is blamed
        except BrokenProcessPool as error:
            raise EngineUnavailable(
                "The processes that classify do not start. Is there enough memory?"
            ) from error

    def _start(self) -> ProcessPoolExecutor:
        # Not forked: a copy of a process with threads may hang.
        return ProcessPoolExecutor(
            self._processes,
            multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(self._work,),
        )


def _chunks(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield entries by the dozen, fewer if their content is long."""
    iterator = iter(entries)
    for first in iterator:
        chunk, size = [first], _size(first)
        while len(chunk) < CHUNK_IMAGES and size < _CHUNK_BYTES:
            more = list(itertools.islice(iterator, 1))
            if not more:
                break
            chunk += more
            size += _size(more[0])
        yield chunk


def _size(entry: Entry) -> int:
    return len(entry[2]) if isinstance(entry[2], bytes) else 0


def _data(content: Path | bytes | Problem) -> bytes | None:
    return content if isinstance(content, bytes) else None


_work: list[Work] = []  # of this process, once it has begun
_chunk_numbers = itertools.count(1)
_taker: list[NoteTaker] = []  # the same, if a drift report is wanted


def _begin(work: Work) -> None:
    """Prepare a worker process, which ends with its parent."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, whatever holds it up
    _work.append(work)
    if work.notes:
        from tidegate.service.offline.drift.notes import NoteTaker

        _taker.append(NoteTaker(work.predictor.bundle))


def _classify(chunk: list[Entry]) -> list[Classified]:
    work, done = _work[0], list[Classified]()
    size = work.predictor.batch_size
    try:
        for start in range(0, len(chunk), size):
            signal.setitimer(signal.ITIMER_REAL, work.timeout_s)
            done += _classify_batch(work, chunk[start : start + size])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if next(_chunk_numbers) % _TRIM_CHUNKS == 0:
        memory.give_back_free_memory()
    return done


def _classify_batch(work: Work, batch: list[Entry]) -> list[Classified]:
    most = work.predictor.max_image_bytes
    contents = [_read(content, most) for _, _, content in batch]
    images = [content for content in contents if isinstance(content, bytes)]
    answers = iter(work.predictor.predict(images, top_k=work.top_k))
    said: list[Answer | Problem] = [
        next(answers) if isinstance(content, bytes) else content for content in contents
    ]
    return [
        Classified(
            work.columns.row(index, name, _data(content), answer), _note(index, content, answer)
        )
        for (index, name, _), content, answer in zip(batch, contents, said, strict=True)
    ]


def _note(index: int, content: bytes | Problem, answer: Answer | Problem) -> Noted | None:
    if not _taker or isinstance(answer, Problem) or isinstance(content, Problem):
        return None
    return _taker[0].note(index, content, answer)


def _read(content: Path | bytes | Problem, most: int) -> bytes | Problem:
    """Return an image's bytes, or why there are none: of a long one only the first are here."""
    if isinstance(content, Problem):
        return content
    if isinstance(content, bytes):
        return content if len(content) <= most else _too_large(most)
    try:
        return _too_large(most) if content.stat().st_size > most else read_small(content, most)
    except (OSError, ValueError) as error:
        return unreadable(error)


def _too_large(most: int) -> Problem:
    return problem_of(UploadTooLarge(f"The image has more than {most:,} bytes, the limit."))


def unreadable(error: Exception) -> Problem:
    """Return the problem of an image that cannot be read."""
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Problem("unreadable", "The image cannot be read", 404, f"{reason}.")
