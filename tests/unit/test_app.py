from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import uvicorn

from tidegate.service import memory
from tidegate.service.api.protocol import BoundedHttpProtocol
from tidegate.service.api.server import Server
from tidegate.service.api.wire import Wire
from tidegate.service.app import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REFUSED,
    _live,
    _report_death,
)
from tidegate.service.errors import BundleRefused
from tidegate.service.lifecycle import Service

PATIENCE_S = 150.0


class FakeService:
    """A service whose start succeeds, raises the given error, or never ends."""

    def __init__(self, start: Exception | None = None, *, warms_for_ever: bool = False) -> None:
        self.failed = asyncio.Event()
        self.drained = False
        self._start = start
        self._warms_for_ever = warms_for_ever

    async def start(self) -> None:
        if self._warms_for_ever:
            await asyncio.Event().wait()
        if self._start is not None:
            raise self._start

    def begin_drain(self) -> None:
        self.drained = True


@pytest.fixture(autouse=True)
def _collector_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "collect_rarely", lambda: None)


def live(service: FakeService, act: Callable[[asyncio.Queue[int]], None]) -> int:
    async def scenario() -> int:
        signals: asyncio.Queue[int] = asyncio.Queue()
        act(signals)
        return await _live(cast(Service, service), signals, 0, lambda: None)

    return asyncio.run(scenario())


def test_a_rejected_bundle_gives_exit_code_1() -> None:
    assert live(FakeService(BundleRefused("no")), lambda signals: None) == EXIT_REFUSED


def test_a_bug_during_the_start_is_logged_and_gives_exit_code_70(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Supervisors do not restart the service after exit code 1, but do after 70."""
    assert live(FakeService(ZeroDivisionError()), lambda signals: None) == EXIT_FAILED
    assert "ZeroDivisionError" in caplog.text


def test_a_failed_engine_ends_the_service() -> None:
    service = FakeService()

    assert live(service, lambda signals: service.failed.set()) == EXIT_FAILED
    assert not service.drained


def test_a_failure_during_warm_up_ends_the_service(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    service = FakeService(warms_for_ever=True)

    assert live(service, lambda signals: service.failed.set()) == EXIT_FAILED
    assert not service.drained
    assert "ready" not in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: int) -> None:
    service = FakeService()

    assert live(service, lambda signals: signals.put_nowait(number)) == EXIT_OK
    assert service.drained


@pytest.mark.lengthy
def test_the_service_fails_if_the_http_server_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("no request is sent")

    def broken(self: BoundedHttpProtocol, now: float) -> None:
        raise ArithmeticError("the clock of the connections broke")

    async def scenario() -> list[str]:
        reasons: list[str] = []
        service = FakeService()
        service.fail = reasons.append  # type: ignore[attr-defined]  # the only method that is called
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = Server(uvicorn.Config(app, log_config=None, lifespan="off"), Wire())
            serving = asyncio.create_task(server.serve([listener]))
            serving.add_done_callback(partial(_report_death, server, cast(Service, service)))
            _, writer = await asyncio.open_connection(*listener.getsockname())
            await asyncio.wait({serving}, timeout=PATIENCE_S)
            writer.close()
        return reasons

    monkeypatch.setattr(BoundedHttpProtocol, "check_time", broken)

    assert asyncio.run(scenario()) == ["the HTTP server ended unexpectedly"]
    assert "the clock of the connections broke" in caplog.text
