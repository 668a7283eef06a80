from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import cast

import pytest

from service.app import EXIT_FAILED, EXIT_OK, EXIT_REFUSED, _live
from service.errors import BundleRefused
from service.lifecycle import Service


class FakeService:
    """A service whose start ends as it is told to."""

    def __init__(self, start: Exception | None = None) -> None:
        self.failed = asyncio.Event()
        self.drained = False
        self._start = start

    async def start(self) -> None:
        if self._start is not None:
            raise self._start

    def begin_drain(self) -> None:
        self.drained = True


def live(service: FakeService, act: Callable[[asyncio.Queue[int]], None]) -> int:
    async def scenario() -> int:
        told: asyncio.Queue[int] = asyncio.Queue()
        act(told)
        return await _live(cast(Service, service), told, 0, lambda: None)

    return asyncio.run(scenario())


def test_a_refused_bundle_is_an_exit_code() -> None:
    assert live(FakeService(BundleRefused("no")), lambda told: None) == EXIT_REFUSED


def test_a_bug_in_the_start_is_logged_and_no_refusal(caplog: pytest.LogCaptureFixture) -> None:
    """A supervisor does not start again what was refused."""
    assert live(FakeService(ZeroDivisionError()), lambda told: None) == EXIT_FAILED
    assert "ZeroDivisionError" in caplog.text


def test_a_failed_engine_ends_the_service() -> None:
    service = FakeService()

    assert live(service, lambda told: service.failed.set()) == EXIT_FAILED
    assert not service.drained


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: int) -> None:
    service = FakeService()

    assert live(service, lambda told: told.put_nowait(number)) == EXIT_OK
    assert service.drained
