"""Log lines to stderr: JSON for machines, text on a terminal. Never image content.

A thread writes them, so that a stalled reader does not block the service.
"""

from __future__ import annotations

import copy
import itertools
import logging
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from tidegate.service.owned_thread import start_owned

log = logging.getLogger(__name__)

MOST_LINES, MOST_BYTES = 4096, 4 << 20  # queued; as many again may be in the current write
LONGEST_LINE = 16 << 10  # characters; the parts of a longer one are shortened
FLUSH_S = 1.0  # longest wait at exit for a stalled reader
_GATHER_S = 0.1  # every wake-up takes the interpreter lock from other threads
_RESTART_S = 0.1
_POLL_S = 1.0
_CHUNK_BYTES = 1 << 16
_ATOMIC_BYTES = 4096  # written to a pipe at once or not at all: PIPE_BUF of Linux
_common: dict[str, object] = {}  # fields of every line of this process
_SEVERAL_WORDS = re.compile(r'[\s"=]')


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    request_id = getattr(record, "request_id", None)
    if request_id:
        fields = {"request_id": request_id, **fields}
    return {**_common, **fields} if _common else fields


def _exception(record: logging.LogRecord) -> str:
    if record.exc_info and not record.exc_text:
        return logging.Formatter().formatException(record.exc_info)
    return record.exc_text or ""


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, then the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if exception := _exception(record):
            line["exception"] = exception
        return to_json(line, fallback=str).decode()


class TextFormatter(logging.Formatter):
    """A human-readable line per record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of one record."""
        clock = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{key}={_as_word(value)}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        if exception := _exception(record):
            line += "\n" + exception
        return line


def _as_word(value: object) -> str:
    """Return a value as text; a text with spaces is quoted, so that it cannot pass for fields."""
    if isinstance(value, str) and _SEVERAL_WORDS.search(value):
        return to_json(value).decode()
    return str(value)


class LineQueue:
    """Lines that a thread writes to a descriptor, so that no caller waits for the reader.

    The queue is bounded. While the reader stalls, has closed the pipe, or its disk is full, further
    lines are dropped and counted; the next write that succeeds reports the number.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes]) -> None:
        """Write to `descriptor`; `notice` returns the line that reports the dropped lines."""
        self.dropped = 0
        self._descriptor = descriptor
        self._notice = notice
        self._on_dropped: Callable[[int], object] = lambda lines: None
        # Guards the fields below. Reentrant, because a finaliser may log while it is locked.
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._reported = 0  # how many of `dropped` the log reports
        self._writing = False
        self._fails = False  # the last write failed
        self._torn = False  # the last write ended in the middle of a line
        self._is_shared = False  # other processes write to the descriptor
        self._start()

    @property
    def full(self) -> bool:
        """Return whether the next line would be dropped."""
        return len(self._lines) >= MOST_LINES or self._bytes >= MOST_BYTES

    def put(self, line: bytes) -> None:
        """Queue a line that ends in a newline; never blocks on the reader."""
        with self._changed:
            if self.full:
                self.drop()
                return
            self._lines.append(line)
            self._bytes += len(line)
            if not self._writing:
                self._changed.notify_all()

    def drop(self, lines: int = 1) -> None:
        """Count dropped lines."""
        with self._changed:
            self.dropped += lines
            self._on_dropped(lines)

    def report_drops_to(self, on_dropped: Callable[[int], object]) -> None:
        """Call `on_dropped` with the number of lines dropped so far, and with each further one."""
        with self._changed:
            self._on_dropped = on_dropped
            on_dropped(self.dropped)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all lines are written; return False if that takes longer than `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._writing, timeout_s)

    def _start(self) -> None:
        start_owned(self._run, "log-writer", self._restart)

    def _restart(self, _: str) -> None:
        """Start the thread again; the error that ended it is already in the queue."""
        time.sleep(_RESTART_S)
        self._start()

    def _run(self) -> None:
        while True:
            lines, dropped = self._take()
            self._write(lines, dropped)
            time.sleep(_GATHER_S)  # under load one write and one wake-up serve many lines

    def _take(self) -> tuple[list[bytes], int]:
        """Wait for lines, and return them with the number of dropped lines to report."""

        def something() -> bool:
            return bool(self._lines) or (self.dropped > self._reported and not self._fails)

        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(something)
            self._writing = True
            lines, self._lines, self._bytes = self._lines, [], 0
            return lines, self.dropped - self._reported

    def _write(self, lines: list[bytes], dropped: int) -> None:
        data = b"".join([b"\n" if self._torn else b"", *lines])
        if dropped:
            data += self._notice(dropped)
        done = self._write_some(data)
        self._fails = done < len(data)
        self._torn = 0 < done < len(data) and data[done - 1 : done] != b"\n"
        if not self._fails:
            self._reported += dropped
            return
        ends = itertools.accumulate(map(len, lines))
        self.drop(len(lines) - sum(end <= done for end in ends))

    def share(self) -> None:
        """Write whole lines at a time, because other processes write to the same pipe."""
        self._is_shared = True

    def _end_of_write(self, data: bytes, start: int) -> int:
        if not self._is_shared:
            return start + _CHUNK_BYTES
        end = data.rfind(b"\n", start, start + _ATOMIC_BYTES) + 1  # of the lines that fit
        return end or data.find(b"\n", start) + 1 or len(data)

    def _write_some(self, data: bytes) -> int:
        """Write until all is written or a write fails; return the number of bytes written."""
        view, done = memoryview(data), 0
        while done < len(data):
            try:
                done += os.write(self._descriptor, view[done : self._end_of_write(data, done)])
            except BlockingIOError:  # another process made the pipe non-blocking
                select.select([], [self._descriptor], [], _POLL_S)
            except OSError:  # the pipe or descriptor is closed, or the disk is full
                break
        return done


class QueuedHandler(logging.Handler):
    """Formats each record at once, before its arguments can change, and queues the line."""

    def __init__(self, formatter: logging.Formatter, descriptor: int) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines = LineQueue(descriptor, self._notice)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line, or drop it if the queue is full."""
        if self.lines.full:
            self.lines.drop()
        else:
            self.lines.put(self._line(record))

    def flush(self) -> None:
        """Wait for the lines to be written, at most FLUSH_S: the reader may have stalled."""
        self.lines.flush(FLUSH_S)

    def _line(self, record: logging.LogRecord) -> bytes:
        try:
            line = self.format(record)
            if len(line) > LONGEST_LINE:
                line = self.format(_shortened(record))
        except Exception as error:  # noqa: BLE001 - a bad record must not raise in its caller
            line = self.format(_unprintable(record, error))
        return line.encode("utf-8", "backslashreplace") + b"\n"

    def _notice(self, dropped: int) -> bytes:
        made = logging.LogRecord(
            __name__, logging.WARNING, "", 0, "%d log lines dropped", (dropped,), None
        )
        return self._line(made)


def configure(level: str, style: str, fields: Mapping[str, object] | None = None) -> LineQueue:
    """Send all logging to stderr; `style` is json, text, or auto (text on a terminal).

    Every line has these further `fields`. Returns the queue of log lines.
    """
    _common.clear()
    _common.update(fields or {})
    descriptor = _stderr()
    as_text = style == "text" or (style == "auto" and os.isatty(descriptor))
    handler = QueuedHandler(TextFormatter() if as_text else JsonFormatter(), descriptor)
    # The formatters use no caller information; without it a record is several times cheaper.
    logging._srcfile = None  # as the logging HOWTO advises
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("PIL").setLevel(logging.WARNING)  # it logs every chunk that it parses
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # app.py logs the same events
    logging.captureWarnings(capture=True)
    sys.unraisablehook = _log_unraisable  # Python's default writes to stderr and may block
    return handler.lines


def _stderr() -> int:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or not a file
        return 2


def _log_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    error = unraisable.exc_value
    log.error("exception ignored: %s", unraisable.err_msg or "in a finaliser", exc_info=error)


def _shortened(record: logging.LogRecord) -> logging.LogRecord:
    """Return a copy of the record with every part limited in length."""
    short = copy.copy(record)
    short.msg, short.args = _cut(record.getMessage(), 2048), ()
    if record.exc_info:
        short.exc_text = _cut(logging.Formatter().formatException(record.exc_info), 4096)
        short.exc_info = None
    fields = list(getattr(record, "fields", {}).items())[:64]
    short.fields = {_cut(str(name), 64): _cut(str(value), 128) for name, value in fields}
    return short


def _unprintable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """Return a record that reports a record that cannot be formatted."""
    text = f"a log line could not be formatted ({type(error).__name__}): {record.msg!r:.1000}"
    return logging.LogRecord(
        record.name, record.levelno, "", 0, ascii(text)[1:-1].replace("%", "%%"), (), None
    )


def _cut(text: str, length: int) -> str:
    """Keep the start and the end of a text: the end of a traceback matters most."""
    if len(text) <= length:
        return text
    head = length // 4
    return f"{text[:head]} … {len(text) - length} characters … {text[head - length :]}"
