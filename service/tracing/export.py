"""The thread that exports traces. Requests never wait for it, and what waits for it is bounded."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from tidegate.service.owned_thread import start_owned
from tidegate.service.tracing.request import TracedRequest

log = logging.getLogger(__name__)
_sdk_log = logging.getLogger("opentelemetry")

MOST_WAITING = 2048  # requests
_MOST_AT_ONCE = 64  # requests in one export
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
EXPORTED, DROPPED, FAILED = "exported", "dropped", "failed"


class Build(Protocol):
    """Builds the spans of requests."""

    def of(self, requests: Sequence[TracedRequest]) -> list[ReadableSpan]: ...


class Export:
    """A bounded queue of answered requests, and the thread that exports their spans.

    While the collector fails, the pauses grow up to a minute, and what does not fit is dropped.
    """

    def __init__(
        self,
        spans: Build,
        exporter: SpanExporter,
        on_outcome: Callable[[str, int], object],
        pause_s: float = _PAUSE_S,
    ) -> None:
        """`on_outcome` is called with exported, dropped or failed, and a number of requests."""
        self._spans = spans
        self._exporter = exporter
        self._on_outcome = on_outcome
        self._pause_s = pause_s
        self._waiting: deque[TracedRequest] = deque()
        self._failing = False
        self._closing = threading.Event()
        self._thread = start_owned(self._run, "traces", lambda reason: None)  # it was logged

    def put(self, request: TracedRequest) -> None:
        """Queue a request, or drop it; never blocks, and wakes no thread."""
        if len(self._waiting) >= MOST_WAITING or self._closing.is_set():
            self._on_outcome(DROPPED, 1)
        else:
            self._waiting.append(request)

    def close(self, timeout_s: float) -> bool:
        """Export what waits, unless the collector fails; return False if that takes too long."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause_s = self._pause_s
        while not self._closing.wait(pause_s):
            self._export_waiting()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S) if self._failing else self._pause_s
        if not self._failing:
            self._export_waiting()
        if self._waiting:
            self._on_outcome(DROPPED, len(self._waiting))

    def _export_waiting(self) -> None:
        """Export until nothing waits or the collector fails."""
        while self._waiting:
            count = min(len(self._waiting), _MOST_AT_ONCE)
            requests = [self._waiting.popleft() for _ in range(count)]
            delivered = self._export(requests)
            self._on_outcome(EXPORTED if delivered else FAILED, count)
            self._note(failing=not delivered)
            if not delivered:
                return

    def _export(self, requests: Sequence[TracedRequest]) -> bool:
        try:
            result = self._exporter.export(self._spans.of(requests))
        except Exception:
            log.exception("traces were not exported")
            return False
        return result is SpanExportResult.SUCCESS

    def _note(self, *, failing: bool) -> None:
        """Log when the collector begins or ceases to fail; the SDK logs why, but not again."""
        if failing and not self._failing:
            log.warning("the collector takes no traces; those that do not fit are dropped")
        elif self._failing and not failing:
            log.info("the collector takes traces again")
        self._failing = failing
        _sdk_log.setLevel(logging.CRITICAL if failing else logging.NOTSET)
