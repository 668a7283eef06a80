"""Read a request body within its limits on bytes, time and memory. All routes use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Receive

from tidegate.service.api.connection import ClientGone, Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.uploads import PROGRESS_BYTES, STALL_S, Reservation
from tidegate.service.errors import (
    BadRequest,
    Overloaded,
    TidegateError,
    UploadTimeout,
    UploadTooLarge,
)

_LENGTH_DIGITS = 18  # more than any real length has; int() raises beyond 4,300 digits


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """The limits of a route."""

    max_bytes: int
    timeout_s: float  # for the whole body


class Pieces:
    """Bytes that arrive in pieces. A single piece is not copied."""

    __slots__ = ("_first", "_rest")

    def __init__(self) -> None:
        self._first = b""
        self._rest: bytearray | None = None

    def add(self, piece: bytes) -> None:
        """Append a piece."""
        if self._rest is not None:
            self._rest += piece
        elif self._first:
            self._rest = bytearray(self._first)
            self._rest += piece
            self._first = b""
        else:
            self._first = piece

    def joined(self) -> bytes:
        """Return all bytes."""
        return self._first if self._rest is None else bytes(self._rest)


async def read_body(request: Request, reservation: Reservation, limits: BodyLimits) -> bytes:
    """Return a request's body. Raises the same errors as `feed_body`."""
    pieces = Pieces()
    await feed_body(request, reservation, limits, pieces.add)
    return pieces.joined()


async def feed_body(
    request: Request, reservation: Reservation, limits: BodyLimits, take: Callable[[bytes], None]
) -> None:
    """Pass each piece of a request's body to `take` as it arrives.

    Raises UploadTooLarge (before reading, if Content-Length is too large), UploadTimeout for a body
    that is late or stalls, Overloaded, BadRequest, ClientGone, or what `take` raises.
    """
    length = RequestContext.of(request.scope).content_length
    if length is not None:
        announced = _parse_length(length)
        _check_length(announced, limits.max_bytes)
        reservation.expect(announced)
    receiver = _Receiver(request.receive, reservation, limits, take)
    if Connection.of(request.scope).body_is_here:  # it cannot time out, so no timer is needed
        await receiver.receive()
    else:
        await receiver.receive_in_time()


class _Receiver:
    """Receives one body."""

    __slots__ = ("_ends_at", "_limits", "_receive", "_reservation", "_take", "_timer")

    def __init__(
        self,
        receive: Receive,
        reservation: Reservation,
        limits: BodyLimits,
        take: Callable[[bytes], None],
    ) -> None:
        self._receive = receive
        self._reservation = reservation
        self._limits = limits
        self._take = take
        self._timer: asyncio.Timeout | None = None
        self._ends_at = 0.0  # on the loop's clock

    async def receive_in_time(self) -> None:
        """Receive a body that has not arrived completely, with timeouts."""
        self._ends_at = asyncio.get_running_loop().time() + self._limits.timeout_s
        try:
            async with asyncio.timeout_at(self._stalls_at()) as self._timer:
                with self._reservation.arriving(self._expire):
                    await self.receive()
        except TimeoutError:
            raise self._error() from None

    async def receive(self) -> None:
        """Receive up to the last piece."""
        reservation, max_bytes = self._reservation, self._limits.max_bytes
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            if reservation.evicted:
                raise TimeoutError
            if chunk := message.get("body", b""):
                size += len(chunk)
                _check_length(size, max_bytes)
                reservation.grow_to(size)
                self._take(chunk)
                if self._timer is not None and reservation.renew():
                    self._timer.reschedule(self._stalls_at())
            more = message.get("more_body", False)

    def _stalls_at(self) -> float:
        return min(self._ends_at, asyncio.get_running_loop().time() + STALL_S)

    def _expire(self) -> None:
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())

    def _error(self) -> TidegateError:
        if self._reservation.evicted == "share":
            return Overloaded("Other clients needed the memory that this request body used.", 1)
        if self._reservation.evicted:
            return UploadTimeout("The body stalled while other requests needed its memory.")
        if asyncio.get_running_loop().time() >= self._ends_at:
            return UploadTimeout(f"The body did not arrive within {self._limits.timeout_s:g} s.")
        return UploadTimeout(
            f"The body stalled: fewer than {PROGRESS_BYTES:,} bytes arrived in {STALL_S:g} s."
        )


def _parse_length(content_length: str) -> int:
    if not (content_length.isascii() and content_length.isdigit()):
        raise BadRequest("Content-Length is not a number.")
    if len(content_length) > _LENGTH_DIGITS:
        raise BadRequest(f"Content-Length has more than {_LENGTH_DIGITS} digits.")
    return int(content_length)


def _check_length(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UploadTooLarge(f"The body has more than {max_bytes:,} bytes.")
