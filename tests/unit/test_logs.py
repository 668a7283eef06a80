from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from tidegate.service import logs
from tidegate.service.logs import JsonFormatter, LineQueue, QueuedHandler, TextFormatter

PATIENCE_S = 150.0


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("tidegate.service.x", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_text_of_a_client_cannot_pass_for_other_fields_of_a_text_line() -> None:
    line = TextFormatter().format(record("request", fields={"agent": 'a" status=200', "n": [1, 2]}))

    assert line.endswith('request agent="a\\" status=200" n=[1, 2]')


def test_a_json_line_carries_the_records_fields() -> None:
    line = json.loads(JsonFormatter().format(record("request", fields={"status": 200, "a": "é"})))

    assert (line["message"], line["status"], line["a"], line["level"]) == (
        "request",
        200,
        "é",
        "info",
    )
    assert line["time"].endswith("+00:00")


def test_a_text_line_is_one_line() -> None:
    line = TextFormatter().format(record("ready", fields={"port": 8000}))

    assert line.endswith("info    ready port=8000")
    assert "\n" not in line


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        made = record("unexpected", exc_info=sys.exc_info(), request_id="id-1")

    line = json.loads(JsonFormatter().format(made))

    assert "ValueError: why" in line["exception"]
    assert line["request_id"] == "id-1"
    assert "ValueError: why" in TextFormatter().format(made)


@contextlib.contextmanager
def piped() -> Iterator[tuple[int, LineQueue]]:
    """Return the read end of a pipe, and the queue that writes to the other end."""
    reader, writer = os.pipe()
    lines = LineQueue(writer, notice)
    try:
        yield reader, lines
    finally:
        with contextlib.suppress(OSError):
            os.close(reader)
        lines.flush(PATIENCE_S)  # its thread no longer writes to this descriptor
        os.close(writer)


def notice(dropped: int) -> bytes:
    return b"dropped %d\n" % dropped


def stall(lines: LineQueue) -> int:
    """Fill the pipe, then queue lines until one is dropped; return the number of lines."""
    os.set_blocking(lines._descriptor, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(lines._descriptor, b"-" * 4096)
    os.set_blocking(lines._descriptor, True)
    offered = 0
    while not lines.dropped:
        lines.put(b"%d\n" % offered)
        offered += 1
    return offered


class Reader:
    """Reads a pipe on a thread, and waits for expected content."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._news = threading.Condition()
        self._data = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while data := os.read(self._descriptor, 1 << 16):
            with self._news:
                self._data += data
                self._news.notify_all()
        os.close(self._descriptor)

    def until(self, text: bytes) -> list[bytes]:
        with self._news:
            assert self._news.wait_for(lambda: text in self._data, PATIENCE_S), self._data[-300:]
            return self._data.splitlines(keepends=True)


class TestAReaderThatStalls:
    def test_it_blocks_no_caller_and_dropped_lines_are_counted(self) -> None:
        with piped() as (_, lines):
            offered = stall(lines)

            assert lines.dropped == 1
            assert offered > 1000

    def test_when_it_reads_again_it_gets_the_kept_lines_and_the_number_of_dropped_ones(
        self,
    ) -> None:
        with piped() as (reader, lines):
            offered = stall(lines)
            back = Reader(reader)
            assert lines.flush(PATIENCE_S)
            lines.put(b"last\n")
            got = [line.lstrip(b"-") for line in back.until(b"last\n")]

        notices = [int(line.split()[1]) for line in got if line.startswith(b"dropped")]
        assert [int(line) for line in got if line[:1].isdigit()] == list(range(offered - 1))
        assert sum(notices) == lines.dropped == 1

    def test_the_queue_is_also_bounded_in_bytes(self) -> None:
        with piped() as (_, lines):
            large = b"x" * (logs.MOST_BYTES // 4) + b"\n"

            queued = 0
            while not lines.dropped:
                lines.put(large)
                queued += 1

            assert queued <= 2 * 5  # in the current write, and in the queue

    def test_a_flush_respects_its_timeout(self) -> None:
        with piped() as (_, lines):
            stall(lines)

            assert not lines.flush(0.01)

    def test_lines_dropped_before_the_metric_exists_are_counted(self) -> None:
        counted: list[int] = []
        with piped() as (_, lines):
            stall(lines)

            lines.report_drops_to(counted.append)
            lines.drop(3)

        assert counted[:2] == [1, 3]


def test_a_flush_writes_every_line() -> None:
    with piped() as (reader, lines):
        for index in range(100):
            lines.put(b"%d\n" % index)

        assert lines.flush(PATIENCE_S)
        assert os.read(reader, 1 << 16).splitlines() == [b"%d" % index for index in range(100)]


def test_lines_of_several_processes_on_one_pipe_stay_whole() -> None:
    reader, writer = os.pipe()
    queues = [LineQueue(writer, lambda dropped: b"") for _ in range(3)]
    sent = [b"%d" % number * length + b"\n" for number, length in ((1, 90), (2, 700), (3, 4000))]
    for queue in queues:
        queue.share()
    for queue, line in zip(queues, sent, strict=True):
        for _ in range(200):
            queue.put(line)

    with os.fdopen(reader, "rb") as stream:
        read = [stream.readline() for _ in range(600)]
    os.close(writer)

    assert set(read) == set(sent)


@pytest.mark.lengthy
def test_a_closed_pipe_does_not_raise_and_its_lines_are_counted() -> None:
    with piped() as (reader, lines):
        os.close(reader)

        for _ in range(3):
            lines.put(b"lost\n")
            assert lines.flush(PATIENCE_S)

        assert lines.dropped == 3


def test_a_closed_descriptor_does_not_raise() -> None:
    lines = LineQueue(1 << 20, notice)

    lines.put(b"nowhere\n")

    assert lines.flush(PATIENCE_S)
    assert lines.dropped == 1


def test_a_full_disk_drops_lines_and_the_next_write_reports_the_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first write writes half a line, the next one fails, and the third succeeds."""
    written, room, write = [], [4, 0], os.write

    def full(descriptor: int, data: bytes) -> int:
        if descriptor != -7:
            return write(descriptor, data)
        size = room.pop(0) if room else len(data)
        if not size:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(bytes(data[:size]))
        return size

    monkeypatch.setattr(os, "write", full)
    lines = LineQueue(-7, notice)
    for text in (b"lost line\n", b"second\n"):
        lines.put(text)
        assert lines.flush(PATIENCE_S)

    assert b"".join(written) == b"lost\nsecond\ndropped 1\n"


def test_a_pipe_made_non_blocking_by_another_process_loses_nothing() -> None:
    with piped() as (reader, lines):
        os.set_blocking(lines._descriptor, False)
        for index in range(1000):
            lines.put(b"%07d " % index + b"x" * 1000 + b"\n")

        lines.put(b"last\n")

        assert len(Reader(reader).until(b"last\n")) == 1001
        assert not lines.dropped


def test_a_writer_thread_that_ends_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = os.write, [MemoryError()]

    def short_of_memory(descriptor: int, data: bytes) -> int:
        if failures and bytes(data).startswith(b"fatal"):
            raise failures.pop()
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", short_of_memory)
    with piped() as (reader, lines):
        lines.put(b"fatal\n")
        assert lines.flush(PATIENCE_S)
        lines.put(b"after\n")

        assert not failures
        assert Reader(reader).until(b"after\n")[-1] == b"after\n"


@contextlib.contextmanager
def handler_on_a_pipe() -> Iterator[tuple[QueuedHandler, Reader]]:
    with piped() as (reader, lines):
        handler = QueuedHandler(JsonFormatter(), lines._descriptor)
        yield handler, Reader(reader)
        handler.flush()


def test_a_line_has_the_values_of_its_arguments_when_it_was_logged() -> None:
    images = [1]
    made = logging.LogRecord("x", logging.INFO, "", 0, "%s", (images,), None)
    with handler_on_a_pipe() as (handler, reader):
        handler.handle(made)
        images.append(2)

        assert json.loads(reader.until(b"\n")[0])["message"] == "[1]"


def test_a_long_line_is_shortened_in_all_its_parts() -> None:
    try:
        raise ValueError("y" * 10**6 + "the end")
    except ValueError:
        made = record("x" * 10**6, exc_info=sys.exc_info(), fields={"name": "z" * 10**6, "n": 1})
    with handler_on_a_pipe() as (handler, reader):
        handler.handle(made)
        (text,) = reader.until(b"\n")

    line = json.loads(text)
    assert len(text) < logs.LONGEST_LINE
    assert line["exception"].endswith("the end")
    assert line["message"].startswith("xxx")
    assert "z" in line["name"]


@pytest.mark.parametrize(
    "made",
    [
        logging.LogRecord("x", logging.INFO, "", 0, "%d images", ("many",), None),
        logging.LogRecord("x", logging.INFO, "", 0, "%s %s", ("one",), None),
        record("surrogate \ud800"),
        record("in a field", fields={"name": "\ud800"}),
        record("%s % 100%", fields={"loop": [float("nan")]}),
    ],
)
def test_a_record_that_cannot_be_formatted_is_still_logged(
    made: logging.LogRecord,
) -> None:
    with handler_on_a_pipe() as (handler, reader):
        handler.handle(made)

        assert json.loads(reader.until(b"\n")[0])["message"]
