"""What arrives at a front end: messages in their order, and connections.

A message about a memory needs its descriptor, which comes another way and may come later.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from tidegate.service.fronts import handover

log = logging.getLogger(__name__)

_NEEDS_DESCRIPTOR = "ring"


class Arrivals:
    """Reads the socket of descriptors, and lets messages wait for them. Used on the event loop."""

    def __init__(
        self,
        source: socket.socket,
        handle: Callable[[str, dict[str, Any], bytes], None],
        take_connection: Callable[[int, int], None],
        lose_connection: Callable[[int], None],
        on_lost: Callable[[], None],
        fail: Callable[[str], None],
    ) -> None:
        """`take_connection` gets a descriptor and a number, `lose_connection` the number of one
        for which no descriptor was free; `on_lost` is called once the other end is gone."""
        self._source = source
        self._handle = handle
        self._take_connection = take_connection
        self._lose_connection = lose_connection
        self._on_lost = on_lost
        self._fail = fail
        self._messages: deque[tuple[str, dict[str, Any], bytes]] = deque()
        self._descriptors: deque[int] = deque()  # of memories whose message has not come
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Read the descriptors that arrive from now on."""
        self._loop.add_reader(self._source, self._read)

    def take_message(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        """Handle a message, after those that arrived before it."""
        self._messages.append((kind, fields, content))
        self._handle_messages()

    def next_descriptor(self) -> int:
        """Return the descriptor of the memory whose message is being handled."""
        return self._descriptors.popleft()

    def _handle_messages(self) -> None:
        while self._messages and self._can_be_handled(self._messages[0][0]):
            kind, fields, content = self._messages.popleft()
            try:
                self._handle(kind, fields, content)
            except Exception:  # the process of the engine starts another front end
                log.critical("a front end cannot handle %r", kind, exc_info=True)
                self._fail(kind)

    def _can_be_handled(self, kind: str) -> bool:
        return kind != _NEEDS_DESCRIPTOR or bool(self._descriptors)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while (taken := handover.take_over(self._source)) is not None:
                kind, number, descriptor = taken
                if descriptor == handover.NONE_FREE:
                    self._lack_descriptor(kind, number)
                elif kind == handover.Kind.CONNECTION:
                    self._take_connection(descriptor, number)
                else:
                    self._descriptors.append(descriptor)
                    self._handle_messages()
            self._loop.remove_reader(self._source)
            self._on_lost()

    def _lack_descriptor(self, kind: int, number: int) -> None:
        """Lose a connection, or end if it was a memory."""
        if kind != handover.Kind.CONNECTION:
            log.critical("no file descriptor is free for a memory")
            self._fail("no descriptor")
        log.warning("no file descriptor is free: a connection was closed")
        self._lose_connection(number)
