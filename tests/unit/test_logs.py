from __future__ import annotations

import json
import logging
import sys

from service.logs import JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("service.x", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


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
