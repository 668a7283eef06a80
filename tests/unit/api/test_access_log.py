"""The log line of a request has what an operator looks for; errors are always logged."""

import logging
from typing import Any

import pytest

from tidegate.service.api.access_log import AccessLog
from tidegate.service.api.context import RequestContext

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"  # its random digits are 0.85 of the range
SCOPE = {"method": "POST", "client": ("2001:db8::7", 5000)}


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records]  # type: ignore[attr-defined]  # `extra`


def _request(*headers: tuple[bytes, bytes]) -> RequestContext:
    return RequestContext.from_headers(list(headers))


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate.service.access")


def test_the_client_and_its_program_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    agent = b'curl/8 "x"\x1b[31m\xe9\n' + b"a" * 300
    AccessLog().record(SCOPE, _request((b"user-agent", agent)), "/models", 200, 0.0123)

    [line] = _lines(caplog)
    assert line["client"] == "2001:db8::/64"
    assert line["duration_ms"] == 12.3
    assert line["user_agent"].startswith('curl/8 "x"\\x1b[31m\\xe9\\x0aaaa')
    assert line["user_agent"].isprintable()
    assert len(line["user_agent"]) < 220


def test_what_a_route_logs_has_precedence(caplog: pytest.LogCaptureFixture) -> None:
    context = _request()
    context.log["client"] = "the name of a key"
    AccessLog().record(SCOPE, context, "/models", 200, 0.1)

    assert _lines(caplog)[0]["client"] == "the name of a key"


def test_errors_are_logged_whatever_the_share(caplog: pytest.LogCaptureFixture) -> None:
    left_out: list[None] = []
    access_log = AccessLog(0.0, lambda: left_out.append(None))
    for status in (200, 204, 304, 400, 422, 499, 503):
        access_log.record(SCOPE, _request(), "/classify", status, 0.1)

    assert [line["status"] for line in _lines(caplog)] == [400, 422, 499, 503]
    assert len(left_out) == 3


@pytest.mark.parametrize(("share", "logged"), [(0.80, 0), (0.90, 5)])
def test_a_trace_is_logged_as_a_whole_or_not_at_all(
    caplog: pytest.LogCaptureFixture, share: float, logged: int
) -> None:
    traceparent = (b"traceparent", f"00-{TRACE}-00f067aa0ba902b7-00".encode())
    for _ in range(5):
        AccessLog(share).record(SCOPE, _request(traceparent), "/classify", 200, 0.1)

    assert len(_lines(caplog)) == logged


def test_without_a_trace_the_share_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    access_log = AccessLog(0.25)
    for _ in range(4000):
        access_log.record(SCOPE, _request(), "/classify", 200, 0.1)

    assert 800 < len(caplog.records) < 1200  # 7 standard deviations
    caplog.clear()


def test_probes_are_neither_logged_nor_counted_as_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left_out: list[None] = []
    AccessLog(0.0, lambda: left_out.append(None)).record(SCOPE, _request(), "/livez", 200, 0.1)

    assert (caplog.records, left_out) == ([], [])
