"""The audit log: who sent which image when, and what was decided. Never pixels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from tidegate.service.api.context import RequestContext
from tidegate.service.bundle.store import Bundle
from tidegate.service.line_file import LineFile
from tidegate.service.logs import FLUSH_S
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.review.answered import Answered

STDERR = Path("-")
_DIGITS = 6
_logger = logging.getLogger("tidegate.audit")
# The client of the request that the current task answers: the tasks of its images inherit it.
_client: ContextVar[dict[str, str | None]] = ContextVar("client")


class Audit:
    """Writes a record for each decision, each reported class and each use of /admin."""

    def admitted(self, scope: MutableMapping[str, Any], context: RequestContext) -> None:
        """Note whose request the current task answers; record it if it is one of an operator."""
        client = scope.get("client")
        _client.set({"key": context.client or None, "client": client[0] if client else None})
        if scope["path"].startswith("/admin"):
            self._write(
                "admin", request_id=context.request_id, method=scope["method"], path=scope["path"]
            )

    def decided(
        self, image_id: str, upload: Upload, result: Classification, bundle: Bundle
    ) -> None:
        """Record the decision on one image."""
        manifest, top, verdict = bundle.manifest, result.predictions[0], result.verdict
        self._write(
            "decision",
            request_id=image_id,
            image_sha256=_sha256_of(upload),
            model=manifest.name,
            version=manifest.version,
            digest=bundle.digest,
            decision=verdict.decision,
            p_value=round(verdict.p_value, _DIGITS),
            class_id=top.class_id,
            label=top.label,
            probability=round(top.probability, _DIGITS),
        )

    def reported(self, answered: Answered, class_id: int) -> None:
        """Record the true class of an image, as a client reports it."""
        self._write(
            "feedback",
            request_id=answered.request_id,
            model=answered.model,
            version=answered.version,
            digest=answered.digest,
            class_id=class_id,
            predicted_class_id=answered.class_id,
        )

    def _write(self, event: str, **fields: Any) -> None:
        record = {"time": _now(), "event": event, **_client.get({}), **fields}
        _logger.info(event, extra={"fields": record})


def _sha256_of(upload: Upload) -> str:
    content = upload.image if upload.pixels is None else upload.pixels.tobytes()
    return hashlib.sha256(content).hexdigest()


class _FileHandler(logging.Handler):
    """Writes the fields of each record to a file, through its queue."""

    def __init__(self, lines: LineFile) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or drop and count it if the queue is full."""
        self._lines.put(to_json(getattr(record, "fields", {})) + b"\n")

    def flush(self) -> None:
        """Wait for the lines to be written, but not for a disk that hangs."""
        self._lines.flush(FLUSH_S)


def open_audit(path: Path, on_dropped: Callable[[int], object]) -> Audit:
    """Return the audit log at a path, or in the service's own log. Raises OSError.

    `on_dropped` is called with the number of lines that could not be written.
    """
    handlers = []
    if path != STDERR:
        lines = LineFile(path, _notice)
        lines.report_drops_to(on_dropped)
        handlers = [_FileHandler(lines)]
    _logger.setLevel(logging.INFO)
    _logger.propagate = not handlers
    _logger.handlers[:] = handlers
    return Audit()


def _notice(dropped: int) -> bytes:
    return to_json({"time": _now(), "event": "dropped", "lines": dropped}) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
