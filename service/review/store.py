"""Keeps images to be looked at, within bounds of bytes and rate, and remembers what was answered.

ROOT/<day>/<name>.<format> beside <name>.json, which says what was answered. Files are written by a
thread of its own; a request never waits for the disk, it rather goes without being kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.errors import SettingsInvalid
from service.imaging.decode import sniff
from service.types import Decision

log = logging.getLogger(__name__)

_QUEUED = 8  # images waiting for the disk
_REMEMBERED = 10_000  # answers that feedback may come for


@dataclass(frozen=True, slots=True)
class ReviewConfig:
    """Where images go, and how many."""

    root: Path
    max_bytes: int  # of all files together; the oldest go first
    per_s: float  # images a second, at most, on average
    accepted_share: float  # of the accepted images, that are kept too


@dataclass(frozen=True, slots=True)
class Answered:
    """What one image was answered."""

    request_id: str
    decision: Decision
    class_id: int
    label: str
    probability: float
    p_value: float
    model: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class _Remembered:
    answered: Answered
    sidecar: Path | None  # of the image that was kept
    true_class: int | None = None


class ReviewStore:
    """Takes images in on the event loop, and writes them on its own thread."""

    def __init__(
        self,
        config: ReviewConfig,
        on_outcome: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread. `on_outcome` is told stored, over-rate, disk-busy or failed.

        Raises SettingsInvalid when the folder cannot be made or written.
        """
        try:
            config.root.mkdir(parents=True, exist_ok=True)
            _replace(config.root / ".writable", b"")
        except OSError as error:
            raise SettingsInvalid(
                f"TIDEGATE_REVIEW_DIR={config.root} cannot be written: {error.strerror}."
            ) from error
        self._config = config
        self._on_outcome = on_outcome
        self._clock = clock
        self._random = random.Random(0)  # noqa: S311 - which images are kept is no secret
        self._tokens, self._filled_at = max(1.0, config.per_s), clock()
        self._answers: OrderedDict[str, _Remembered] = OrderedDict()
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUED)
        self._kept: deque[tuple[Path, Path, int]] = deque()  # sidecar, image, bytes; oldest first
        self._bytes = 0
        self._thread = threading.Thread(target=self._write_all, name="review", daemon=True)
        self._thread.start()

    def offer(self, image: bytes, answered: Answered) -> None:
        """Remember an answer; keep its image if it is one to be looked at and there is room."""
        sidecar = None
        if self._is_wanted(answered.decision):
            if not self._spend():
                self._on_outcome("over-rate")
            else:
                sidecar = self._keep(image, answered)
        self._answers[answered.request_id] = _Remembered(answered, sidecar)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def label(self, request_id: str, true_class: int) -> tuple[Answered, bool] | None:
        """Note an image's true class; returns its answer and whether this is news.

        None when the request is not, or no longer, among those remembered.
        """
        known = self._answers.get(request_id)
        if known is None:
            return None
        is_news = known.true_class is None
        self._answers[request_id] = replace(known, true_class=true_class)
        if known.sidecar is not None:
            path = known.sidecar
            try:
                self._jobs.put_nowait(lambda: self._add_label(path, true_class))
            except queue.Full:
                self._on_outcome("disk-busy")
        return known.answered, is_news

    def close(self, timeout_s: float) -> None:
        """Write what waits, within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        try:
            self._jobs.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _is_wanted(self, decision: Decision) -> bool:
        return decision != "accept" or self._random.random() < self._config.accepted_share

    def _spend(self) -> bool:
        now = self._clock()
        earned = (now - self._filled_at) * self._config.per_s
        self._tokens = min(max(1.0, self._config.per_s), self._tokens + earned)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _keep(self, image: bytes, answered: Answered) -> Path | None:
        now = datetime.now(UTC)
        name = hashlib.sha256(f"{now.isoformat()} {answered.request_id}".encode()).hexdigest()[:24]
        folder = self._config.root / now.date().isoformat()
        sidecar, file = folder / f"{name}.json", folder / f"{name}.{sniff(image).lower()}"
        said = {field: getattr(answered, field) for field in answered.__slots__}
        content = _json({**said, "time": now.isoformat(), "file": file.name})
        try:
            self._jobs.put_nowait(lambda: self._write(sidecar, file, content, image))
        except queue.Full:
            self._on_outcome("disk-busy")
            return None
        return sidecar

    # Everything below runs on the thread.

    def _write_all(self) -> None:
        job: Callable[[], None] | None = self._look_through
        while job is not None:
            try:
                job()
            except (OSError, ValueError) as error:
                self._on_outcome("failed")
                log.warning("an image for review was not kept: %s", error)
            job = self._jobs.get()

    def _look_through(self) -> None:
        """Take up what an earlier process kept."""
        files = list(self._config.root.glob("*/*.*"))
        images = {path.with_suffix(".json"): path for path in files if path.suffix != ".json"}
        found = []
        for sidecar in (path for path in files if path.suffix == ".json"):
            if (image := images.get(sidecar)) is not None:
                size = sidecar.stat().st_size + image.stat().st_size
                found.append((sidecar.stat().st_mtime, sidecar, image, size))
        for _, sidecar, image, size in sorted(found):
            self._kept.append((sidecar, image, size))
            self._bytes += size

    def _write(self, sidecar: Path, file: Path, content: bytes, image: bytes) -> None:
        size = len(content) + len(image)
        while self._kept and self._bytes + size > self._config.max_bytes:
            self._drop(*self._kept.popleft())
        if size > self._config.max_bytes:
            raise ValueError(f"it has {size} bytes, more than may be kept in all")
        file.parent.mkdir(parents=True, exist_ok=True)
        _replace(file, image)
        _replace(sidecar, content)  # last: an image with a sidecar is whole
        self._kept.append((sidecar, file, size))
        self._bytes += size
        self._on_outcome("stored")

    def _drop(self, sidecar: Path, image: Path, size: int) -> None:
        sidecar.unlink(missing_ok=True)
        image.unlink(missing_ok=True)
        self._bytes -= size

    def _add_label(self, sidecar: Path, true_class: int) -> None:
        if sidecar.exists():  # else it was the oldest meanwhile
            _replace(sidecar, _json({**json.loads(sidecar.read_bytes()), "true_class": true_class}))


def _json(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, ensure_ascii=False) + "\n").encode()


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(content)
    beside.replace(path)
