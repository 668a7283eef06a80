"""Keep images for review on disk, with limits on bytes and rate.

One thread writes the files, through `folder.py`. A request never waits for the disk: if the
thread's queue is full, the image is not kept.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import queue
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tidegate.service.errors import SettingsInvalid
from tidegate.service.imaging.decode import sniff
from tidegate.service.owned_thread import start_owned
from tidegate.service.review import sidecar
from tidegate.service.review.answered import Answered
from tidegate.service.review.folder import Entry, ReviewFolder, TooLarge, needed
from tidegate.service.types import Decision

log = logging.getLogger(__name__)

_QUEUED = 8  # images waiting for the disk
_SCAN_EVERY_S = 600.0  # other processes also write and delete
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class ReviewConfig:
    """The folder for images, and the limits."""

    root: Path
    max_bytes: int  # on disk, all files and folders; beyond it the oldest images are deleted
    per_s: float  # maximum average rate, images per second
    accepted_share: float  # share of accepted images to keep as well


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that was queued for writing."""

    entry: Entry
    time: str

    def sidecar(self, answered: Answered, true_class: int | None = None) -> bytes:
        """Return the content of its sidecar."""
        fields = answered._asdict()
        label = {} if true_class is None else {"true_class": true_class}
        return sidecar.written({**fields, "time": self.time, "file": self.entry.file, **label})


class Selection:
    """Chooses the images to keep: by their decisions, and so many per second."""

    def __init__(self, config: ReviewConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._clock = clock
        self._random = random.Random(0)  # noqa: S311 - which images are kept is no secret
        self._tokens, self._filled_at = max(1.0, config.per_s), clock()

    def is_wanted(self, decision: Decision) -> bool:
        """Return whether an image with this decision is to be kept."""
        return decision != "accept" or self._random.random() < self._config.accepted_share

    def take_token(self) -> bool:
        """Return whether one more image may be kept now, and count it."""
        now = self._clock()
        earned = (now - self._filled_at) * self._config.per_s
        self._tokens = min(max(1.0, self._config.per_s), self._tokens + earned)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class ImageStore:
    """Accepts images on the event loop, and writes them on its own thread."""

    def __init__(
        self,
        config: ReviewConfig,
        on_outcome: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        on_death: Callable[[str], None],
    ) -> None:
        """Start the thread. `on_outcome` is called with stored, over-rate, disk-busy or failed.

        `on_death` is called, on the thread, if the thread ends unexpectedly.
        Raises SettingsInvalid if the folder cannot be created or written.
        """
        _check_writable(config.root)
        self._config = config
        self._on_outcome = on_outcome
        self._clock = clock
        self._selection = Selection(config, clock)
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_QUEUED)
        self._folder = ReviewFolder(config.root, config.max_bytes)
        self._scanned_at: float | None = None
        self._failing = ""  # why the last image could not be written
        self._met_too_large = False
        self._thread = start_owned(self._write_all, "review", on_death)

    def offer(
        self, image: bytes, answered: Answered, *, is_wanted: bool = False
    ) -> StoredImage | None:
        """Queue the image if it is selected for review; return it, or None if it is not kept.

        With `is_wanted` it is selected whatever the decision is.
        """
        if not is_wanted and not self._selection.is_wanted(answered.decision):
            return None
        if not self._selection.take_token():
            self._on_outcome("over-rate")
            return None
        return self._keep(image, answered)

    def relabel(self, stored: StoredImage, answered: Answered, true_class: int) -> None:
        """Add an image's true class to its sidecar."""
        content = stored.sidecar(answered, true_class)
        self._put(partial(self._folder.relabel, stored.entry, content))

    def close(self, timeout_s: float) -> None:
        """Write the queued images, for at most `timeout_s`; a disk that hangs is not waited for."""
        deadline = time.monotonic() + timeout_s
        try:
            self._jobs.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self, image: bytes, answered: Answered) -> StoredImage | None:
        now = datetime.now(UTC)
        stem = hashlib.sha256(f"{now.isoformat()} {answered.request_id}".encode()).hexdigest()[:24]
        entry = Entry(now.date().isoformat(), f"{stem}.{sniff(image).lower()}")
        kept = StoredImage(entry, now.isoformat())
        return kept if self._put(partial(self._write, kept, answered, image)) else None

    def _put(self, job: Callable[[], None]) -> bool:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._on_outcome("disk-busy")
            return False
        return True

    # Everything below runs on the thread.

    def _write_all(self) -> None:
        job: Callable[[], None] | None = self._scan
        while job is not None:
            try:
                job()
            except TooLarge as error:
                self._on_outcome("failed")
                if not self._met_too_large:
                    log.warning("%s; images of this size are not kept", error)
                self._met_too_large = True
            except OSError as error:
                self._on_outcome("failed")
                self._report(error.strerror or str(error))
            job = self._jobs.get()

    def _scan(self) -> None:
        self._folder.scan()
        self._scanned_at = self._clock()

    def _write(self, kept: StoredImage, answered: Answered, image: bytes) -> None:
        if self._scanned_at is None or self._clock() - self._scanned_at > _SCAN_EVERY_S:
            self._scan()
        content = kept.sidecar(answered)
        try:
            self._folder.write(kept.entry, content, image)
        except OSError as error:
            # Delete only once while the disk is full: other programs may use the freed space.
            if error.errno not in _DISK_FULL or self._failing:
                raise
            if not self._folder.drop(needed(content, image)):
                raise
            self._folder.write(kept.entry, content, image)
        self._on_outcome("stored")
        self._report("")

    def _report(self, failing: str) -> None:
        """Log a change only: images are no longer kept, or are kept again."""
        if failing and failing != self._failing:
            log.warning("images for review are not kept: %s", failing)
        elif self._failing and not failing:
            log.warning("images for review are kept again")
        self._failing = failing


def _check_writable(root: Path) -> None:
    """Raise SettingsInvalid if the folder cannot be created or written, unless the disk is full."""
    probe = root / f".writable-{secrets.token_hex(8)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        if error.errno not in _DISK_FULL or not root.is_dir():
            raise SettingsInvalid(
                f"TIDEGATE_REVIEW_DIR={root} cannot be written: {error.strerror}."
            ) from error
