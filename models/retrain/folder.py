"""The folder of requests: it is the receiver's only state.

    <time>-<model>-<version>-<group>.json            the request, written once, never changed
    ….result.json                                    how the configured command ended
    ….resolved.json                                  which of its alerts have ended since

Names sort by time. A request is linked into place when it is whole and on the disk; looking for a
recent one and writing another happen under one lock, which the kernel drops when its holder dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from models.retrain.alerts import Drift, Subject

log = logging.getLogger(__name__)

FORMAT = "tidegate-retrain-request/1"
RESULT_FORMAT = "tidegate-retrain-result/1"
RESOLVED_FORMAT = "tidegate-retrain-resolved/1"
RESULT, RESOLVED = ".result.json", ".resolved.json"
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-.+-[0-9a-f]{16}\.json")
_LOOK_BACK = 200  # requests in which an ended alert is looked for
_STAMP = "%Y%m%dT%H%M%S.%fZ"


class Filed(BaseModel):
    """What of a request decides whether another is due; the rest is for people."""

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
        """Whether it asked for the same already.

        A digest that Prometheus could not tell is any digest: else an outage would ask twice.
        """
        known = frozenset(self.digests)
        return (
            Subject(self.job, self.model, self.version) == drift.subject
            and self.group == drift.group
            and (digests <= known or not known)
        )


@dataclass(frozen=True, slots=True)
class RequestFolder:
    """Reads and writes the requests below `path`."""

    path: Path
    cool_down: timedelta

    def open(self) -> None:
        """Make the folder and see that it can be written. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            for leftover in self.path.glob(".writing-*"):  # of a killed writer
                leftover.unlink()

    def recent(self, drift: Drift, digests: frozenset[str], now: datetime) -> Path | None:
        """Return the request that still covers this drift, if there is one."""
        for path in self.newest():
            if now - _filed_at(path) >= self.cool_down:
                return None
            filed = read(path)
            if filed and filed.covers(drift, digests):
                return path
        return None

    def file(
        self, drift: Drift, digests: frozenset[str], now: datetime, more: Mapping[str, Any]
    ) -> tuple[Path, bool]:
        """Return the request for this drift, and whether it is new. Raises OSError."""
        subject = drift.subject
        name = f"{now.astimezone(UTC).strftime(_STAMP)}-{subject.model}-{subject.version}"
        path = self.path / f"{name}-{drift.group}.json"
        content = {
            "format": FORMAT,
            "filed_at": now.astimezone(UTC).isoformat(),
            "job": subject.job,
            "model": subject.model,
            "version": subject.version,
            "digests": sorted(digests),
            "group": drift.group,
            "fingerprints": sorted({alert.fingerprint for alert in drift.firing}),
            **more,
        }
        with self._locked():
            if there := self.recent(drift, digests, now):
                return there, False
            with self._draft(content) as draft:
                os.link(draft, path)  # never over another
            self._flush()
        return path, True

    def record_result(self, request: Path, result: Mapping[str, Any]) -> None:
        """Write how the command ended, next to its request. Raises OSError."""
        path = beside(request, RESULT)
        with self._locked(), self._draft({"format": RESULT_FORMAT, **result}) as draft:
            draft.replace(path)
            self._flush()

    def record_resolved(self, drift: Drift) -> list[str]:
        """Note which alerts of earlier requests have ended; return those requests' names.

        Raises OSError.
        """
        ended = {alert.fingerprint: alert.ends_at.isoformat() for alert in drift.resolved}
        noted = []
        with self._locked():
            for path in self.newest()[:_LOOK_BACK]:
                filed = read(path)
                own = {f: ended.pop(f) for f in (filed.fingerprints if filed else ()) if f in ended}
                if own:
                    self._note(path, own)
                    noted.append(path.name)
        return noted

    def newest(self) -> list[Path]:
        """Return all requests, the newest first."""
        names = sorted(filter(_NAME.fullmatch, os.listdir(self.path)), reverse=True)
        return [self.path / name for name in names]

    def _note(self, request: Path, ended: Mapping[str, str]) -> None:
        path = beside(request, RESOLVED)
        before = (load(path) or {}).get("ended_at", {})
        if before | ended != before:
            content = {"format": RESOLVED_FORMAT, "ended_at": before | ended}
            with self._draft(content) as draft:
                draft.replace(path)
                self._flush()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _draft(self, content: Mapping[str, Any]) -> Iterator[Path]:
        """Lend a file with this content, on the disk; it is gone afterwards."""
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

    def _flush(self) -> None:
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def beside(request: Path, suffix: str) -> Path:
    """Return the path of what belongs to a request."""
    return request.with_name(request.name.removesuffix(".json") + suffix)


def read(path: Path) -> Filed | None:
    """Return a request, or None for a file that is none: written by hand, or removed."""
    try:
        return Filed.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        log.warning("%s is no request of this format; it is left out", path.name)
        return None


def load(path: Path) -> dict[str, Any] | None:
    """Return a file that belongs to a request, or None where there is none."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        if isinstance(content, dict):
            return content
    return None


def _filed_at(path: Path) -> datetime:
    found = _NAME.fullmatch(path.name)
    assert found is not None  # noqa: S101 - `newest` lists no others
    return datetime.strptime(found[1], _STAMP).replace(tzinfo=UTC)
