"""Log lines to stderr: JSON for machines, text on a terminal. Never image content."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    request_id = getattr(record, "request_id", None)
    return {"request_id": request_id, **fields} if request_id else fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return to_json(line, fallback=str).decode()


class TextFormatter(logging.Formatter):
    """A line for a person."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(level: str, style: str) -> None:
    """Send all logging to stderr; `style` is json, text, or auto (text on a terminal)."""
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter() if as_text else JsonFormatter())
    # Nothing prints who called from where; not asking makes a record several times cheaper.
    logging._srcfile = None  # as the logging HOWTO advises
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("PIL").setLevel(logging.WARNING)  # it logs every chunk it parses
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # app.py says what it does
    logging.captureWarnings(capture=True)
