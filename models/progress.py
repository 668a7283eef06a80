"""Progress of a long job: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")
_PLAIN_EVERY_S = 5.0


class Steps(Protocol):
    """Announces the steps of a job, one after the other."""

    def next(self, what: str) -> None:
        """Mark the previous step as done and `what` as begun."""


@contextmanager
def steps(title: str, total: int) -> Iterator[Steps]:
    """Show `total` steps of the job `title` on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(title, total)
        return
    with _bar() as progress:
        task = progress.add_task(title, total=total)
        yield _Bar(progress, task, title)
        progress.update(task, completed=total, description=title)


def follow(items: Iterable[T], title: str, plain_every_s: float = _PLAIN_EVERY_S) -> Iterator[T]:
    """Yield `items` and show the loop's progress, without a terminal as a line now and then."""
    total = len(items) if isinstance(items, Sized) else None
    if sys.stderr.isatty():
        with _bar() as progress:
            yield from progress.track(items, total=total, description=title)
        return
    last_line = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last_line > plain_every_s:
            last_line = time.monotonic()
            say(f"{title}: {count}" + (f" of {total}" if total else ""))


def say(line: str) -> None:
    """Print one line to stderr."""
    print(line, file=sys.stderr, flush=True)


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


class _Bar:
    def __init__(self, progress: Progress, task: object, title: str) -> None:
        self._progress, self._task, self._title = progress, task, title
        self._begun = 0

    def next(self, what: str) -> None:
        self._progress.update(
            self._task,  # type: ignore[arg-type]  # rich's TaskID is an int by another name
            completed=self._begun,
            description=f"{self._title}: {what}",
        )
        self._begun += 1


class _Lines:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._begun = 0

    def next(self, what: str) -> None:
        self._begun += 1
        say(f"{self._title} [{self._begun}/{self._total}]: {what}")
