from __future__ import annotations

from queue import SimpleQueue

import pytest

from tidegate.service.owned_thread import start_owned

PATIENCE_S = 150.0


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(0), MemoryError()])
def test_a_thread_that_ends_unexpectedly_is_reported_to_its_owner(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    deaths: SimpleQueue[str] = SimpleQueue()

    def target() -> None:
        raise error

    start_owned(target, "worker", deaths.put).join(PATIENCE_S)

    reason = deaths.get(timeout=PATIENCE_S)
    assert reason.startswith(f"thread worker ended unexpectedly: {type(error).__name__}")
    assert "thread worker ended unexpectedly" in caplog.text


def test_a_thread_that_returns_is_not_reported() -> None:
    deaths: list[str] = []

    start_owned(lambda: None, "worker", deaths.append).join(PATIENCE_S)

    assert deaths == []
