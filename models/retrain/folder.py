"""The folder of requests, which is the receiver's only state.

    <time>-<model>-<version>-<group>.json            the request, written once, never changed
    ….result.json                                    how the configured command ended
    ….resolved.json                                  which of its alerts have ended since

Names sort by time. A request is linked into place once it is complete and on the disk. One lock
covers searching for a recent request and writing a new one; the kernel releases it if its owner
dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tidegate.models.retrain.alerts import MAX_SUBJECTS, Drift
from tidegate.models.retrain.errors import TooManyFiled
from tidegate.service.files import flush_folder

log = logging.getLogger(__name__)

FORMAT = "tidegate-retrain-request/1"
RESULT_FORMAT = "tidegate-retrain-result/1"
RESOLVED_FORMAT = "tidegate-retrain-resolved/1"
RESULT, RESOLVED = ".result.json", ".resolved.json"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-.+-[0-9a-f]{16}\.json")
MAX_FILED_PER_HOUR = MAX_SUBJECTS  # lower, and a full notification could never be filed
_HOUR = timedelta(hours=1)
_LOOK_BACK = 200  # newest requests that are searched for an ended alert
_STAMP = "%Y%m%dT%H%M%S.%fZ"


class Filed(BaseModel):
    """The fields of a filed request that decide whether it covers a new drift."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format: Literal["tidegate-retrain-request/1"]
    filed_at: AwareDatetime
    job: str
    model: str
    version: str
    digests: tuple[str, ...]
    group: str
    fingerprints: Annotated[tuple[str, ...], Field(min_length=1)]

    def covers(self, drift: Drift, digests: frozenset[str]) -> bool:
        """Return whether this request already covers the drift.

        Unknown digests match any digest: otherwise an outage of Prometheus would file twice.
        """
        known, subject = frozenset(self.digests), drift.subject
        return (
            (self.job, self.model, self.version) == (subject.job, subject.model, subject.version)
            and self.group == drift.group
            and (digests <= known or not known)
        )


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request to file, unless another one covers its drift."""

    drift: Drift
    digests: frozenset[str]
    content: Mapping[str, Any] = field(default_factory=dict)  # alerts, evidence, samples


@dataclass(frozen=True, slots=True)
class RequestFolder:
    """Reads and writes the requests below `path`."""

    path: Path
    cool_down: timedelta
    per_hour: int = MAX_FILED_PER_HOUR

    def open(self) -> None:
        """Create the folder and check that it can be written. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            for leftover in self.path.glob(".writing-*"):  # left by a killed writer
                leftover.unlink()

    def recent(self, wanted: Sequence[NewRequest], now: datetime) -> list[Path | None]:
        """Return for each the filed request that covers it, or None. Lists the folder once."""
        requests = self._within(self.newest(), self.cool_down, now)
        return [self._covering(new, requests) for new in wanted]

    def file(self, wanted: Sequence[NewRequest], now: datetime) -> list[tuple[Path, bool]]:
        """Return for each the request that covers it, and whether it is new. Lists the folder once.

        Files all or none. Raises TooManyFiled or OSError.
        """
        with self._locked(), contextlib.ExitStack() as drafts:
            newest = self.newest()
            requests = self._within(newest, self.cool_down, now)
            there = [self._covering(new, requests) for new in wanted]
            self._check_rate(newest, there.count(None), now)
            new: list[tuple[Path, Path]] = []
            found: list[tuple[Path, bool]] = []
            for place, (request, path) in enumerate(zip(wanted, there, strict=True)):
                if path is None:
                    # Times differ by 1 µs, as "a-b" "1" and "a" "b-1" would have the same name.
                    name, content = _request(request, now + timedelta(microseconds=place))
                    new.append((drafts.enter_context(self._draft(content)), self.path / name))
                found.append((path or new[-1][1], path is None))
            self._link(new)
        return found

    def check_rate(self, new: int, now: datetime) -> None:
        """Raise TooManyFiled if `new` more requests exceed the hourly limit."""
        if new:
            self._check_rate(self.newest(), new, now)

    def record_result(self, request: Path, result: Mapping[str, Any]) -> None:
        """Write the command's result next to its request. Raises OSError."""
        path = companion(request, RESULT)
        with self._locked(), self._draft({"format": RESULT_FORMAT, **result}) as draft:
            draft.replace(path)
            flush_folder(self.path)

    def record_resolved(self, resolved: Sequence[Drift]) -> list[list[str]]:
        """Record which alerts of earlier requests have ended; return those requests' names.

        Lists the folder once. Raises OSError.
        """
        if not any(drift.resolved for drift in resolved):
            return [[] for _ in resolved]
        with self._locked():
            filed = [(path, read(path)) for path in self.newest()[:_LOOK_BACK]]
            return [self._note_all(drift, filed) for drift in resolved]

    def _note_all(self, drift: Drift, requests: Sequence[tuple[Path, Filed | None]]) -> list[str]:
        ended = {alert.fingerprint: alert.ends_at.isoformat() for alert in drift.resolved}
        noted = []
        for path, filed in requests:
            own = {f: ended.pop(f) for f in (filed.fingerprints if filed else ()) if f in ended}
            if own:
                self._note(path, own)
                noted.append(path.name)
        return noted

    def newest(self) -> list[Path]:
        """Return all requests, newest first."""
        names = sorted(filter(_filed_at, os.listdir(self.path)), reverse=True)
        return [self.path / name for name in names]

    @staticmethod
    def _within(newest: Sequence[Path], age: timedelta, now: datetime) -> list[Path]:
        return [path for path in newest if (at := _filed_at(path.name)) and now - at < age]

    @staticmethod
    def _covering(new: NewRequest, requests: Sequence[Path]) -> Path | None:
        for path in requests:
            if path.name.endswith(_ending(new.drift)):  # only these need to be read
                filed = read(path)
                if filed and filed.covers(new.drift, new.digests):
                    return path
        return None

    def _check_rate(self, newest: Sequence[Path], new: int, now: datetime) -> None:
        times = [at for path in newest if (at := _filed_at(path.name)) and abs(now - at) < _HOUR]
        over = len(times) + new - self.per_hour
        if not new or over <= 0:
            return
        free_at = sorted(times)[min(over, len(times)) - 1] + _HOUR if times else now + _HOUR
        wait_s = min(3600, max(1, math.ceil((free_at - now).total_seconds())))
        raise TooManyFiled(
            f"{len(times)} requests were filed in the last hour; the limit is {self.per_hour}. "
            f"Nothing of this notification was filed; send it again in {wait_s} s.",
            wait_s,
        )

    def _link(self, drafts: Sequence[tuple[Path, Path]]) -> None:
        linked: list[Path] = []
        try:
            for draft, path in drafts:
                os.link(draft, path)  # never replaces a file
                linked.append(path)
            flush_folder(self.path)
        except OSError:
            for path in linked:
                path.unlink(missing_ok=True)
            raise

    def _note(self, request: Path, ended: Mapping[str, str]) -> None:
        path = companion(request, RESOLVED)
        before = (load(path) or {}).get("ended_at", {})
        if before | ended != before:
            content = {"format": RESOLVED_FORMAT, "ended_at": before | ended}
            with self._draft(content) as draft:
                draft.replace(path)
                flush_folder(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _draft(self, content: Mapping[str, Any]) -> Iterator[Path]:
        """Yield a temporary file with this content, flushed to the disk; it is removed later."""
        draft = self.path / f".writing-{secrets.token_hex(8)}"
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with draft.open("x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)


def companion(request: Path, suffix: str) -> Path:
    """Return the path of a request's file with another suffix."""
    return request.with_name(request.name.removesuffix(".json") + suffix)


def read(path: Path) -> Filed | None:
    """Return a request, or None if the file was removed or is not a valid request."""
    try:
        return Filed.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        log.warning("%s is not a request of this format; ignoring it", path.name)
        return None


def load(path: Path) -> dict[str, Any] | None:
    """Return the content of a request's file, or None if it is missing or invalid."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    return None


def _request(new: NewRequest, filed_at: datetime) -> tuple[str, dict[str, Any]]:
    """Return a request's file name and content."""
    drift, at = new.drift, filed_at.astimezone(UTC)
    content = {
        "format": FORMAT,
        "filed_at": at.isoformat(),
        "job": drift.subject.job,
        "model": drift.subject.model,
        "version": drift.subject.version,
        "digests": sorted(new.digests),
        "group": drift.group,
        "fingerprints": sorted({alert.fingerprint for alert in drift.firing}),
        **new.content,
    }
    return at.strftime(_STAMP) + _ending(drift), content


def _ending(drift: Drift) -> str:
    return f"-{drift.subject.model}-{drift.subject.version}-{drift.group}.json"


def _filed_at(name: str) -> datetime | None:
    """Return the time in a request's name, or None for any other name."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    try:
        return datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC)
    except ValueError:  # such as month 13
        return None
