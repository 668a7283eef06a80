"""Every dialect reports failures in its own form, with the status of /classify."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from tidegate.service import errors
from tidegate.service.api.dialects.names import NAMES
from tidegate.service.app import build
from tidegate.service.problem_codes import TABLE
from tidegate.service.settings import Settings

MODEL = "efficientnet-lite0"


class Unstarted:
    """Requests to an application whose service has not started."""

    def __init__(self) -> None:
        app, _, _ = build(Settings.read({"dialects": ",".join(NAMES)}))
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    def request(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://x") as client:
                return await client.request(method, path, content=body)

        return asyncio.run(send())


@pytest.fixture(scope="module")
def app() -> Unstarted:
    return Unstarted()


@pytest.mark.parametrize(
    ("method", "path", "member"),
    [
        ("GET", f"/v1/models/{MODEL}", "error"),
        ("POST", f"/v1/models/{MODEL}:predict", "error"),
        ("GET", "/health", "error"),
        ("POST", "/predict", "error"),
        ("POST", "/", "error"),
        ("POST", "/invocations", "detail"),
        ("GET", "/execution-parameters", "detail"),
        ("POST", f"/predictions/{MODEL}", "message"),
        ("POST", f"/v2/models/{MODEL}/infer", "error"),
    ],
)
def test_a_route_is_503_in_the_form_of_its_protocol(
    app: Unstarted, method: str, path: str, member: str
) -> None:
    answer = app.request(method, path, b"image")

    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "1"
    assert "warming up" in answer.json()[member]


RETRY_AFTER_S = 7.0
FAILURES = {
    errors.QuotaExceeded: errors.QuotaExceeded("why", RETRY_AFTER_S),
    errors.Overloaded: errors.Overloaded("why", RETRY_AFTER_S),
}
ARGUMENTS = ("undecodable-image", "unsupported-image-type")  # that are invalid, for v2


@pytest.mark.parametrize(
    ("path", "member", "text"),
    [
        (f"/v1/models/{MODEL}:predict", "error", "{code}: why"),
        ("/predict", "error", "{code}: why"),
        ("/", "error", "{code}: why"),
        ("/invocations", "detail", "why"),
        (f"/predictions/{MODEL}", "message", "why"),
        (f"/v2/models/{MODEL}/infer", "error", "{code}: why"),
        (f"/v2/models/{MODEL}.pixels/versions/1/infer", "error", "{code}: why"),
    ],
)
def test_every_failure_has_the_form_of_the_protocol(
    app: Unstarted, monkeypatch: pytest.MonkeyPatch, path: str, member: str, text: str
) -> None:
    for failure, (status, code, _) in TABLE.items():
        error = FAILURES.get(failure) or failure("why")

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("tidegate.service.lifecycle.Service.catalog", property(fail))
        answer = app.request("POST", path, b"image")

        expected = 400 if path.startswith("/v2") and code in ARGUMENTS else status
        assert (answer.status_code, code) == (expected, code)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()[member] == text.format(code=code)
        assert ("retry-after" in answer.headers) is (error.retry_after_s is not None)


def test_sagemaker_s_ping_is_503_without_a_body(app: Unstarted) -> None:
    answer = app.request("GET", "/ping")

    assert (answer.status_code, answer.content) == (503, b"")


def test_a_bug_is_a_500_in_the_form_of_the_protocol(
    app: Unstarted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("tidegate.service.lifecycle.Service.choose", broken)
    with caplog.at_level(logging.ERROR):
        answer = app.request("POST", f"/predictions/{MODEL}", b"image")

    assert (answer.status_code, answer.json()["type"]) == (500, "internal-error")
    assert "unexpected error" in caplog.messages
