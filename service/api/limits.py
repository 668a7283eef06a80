"""Bounds on what a client may send, kept before the bytes are: per upload, per client, in all."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Receive

from service.api.problems import ClientGone
from service.errors import BadRequest, Overloaded, QuotaExceeded, UploadTimeout, UploadTooLarge

_CLIENTS_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What the operator allows; seconds and bytes."""

    max_upload_bytes: int
    max_inflight_bytes: int
    upload_timeout_s: float
    max_files: int  # images in one /classify/batch
    deadline_s: float  # when the client names none
    max_deadline_s: float
    client_rate: float  # images a second per client address; 0 is no limit
    client_burst: int


class Reservation:
    """Bytes of one upload, counted against everyone's."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0

    def expect(self, count: int) -> None:
        """Refuse an upload that would not fit now. Holds nothing: announcing is free.

        Raises Overloaded.
        """
        self._budget.check(count)

    def grow_to(self, count: int) -> None:
        """Hold `count` bytes in all. Raises Overloaded when there is no room."""
        more = count - self.held
        if more > 0:
            self._budget.take(more)
            self.held = count


class ByteBudget:
    """Upload bytes held by all requests together."""

    def __init__(self, max_bytes: int, on_full: Callable[[], None]) -> None:
        self._max_bytes = max_bytes
        self._on_full = on_full
        self.used = 0

    def take(self, count: int) -> None:
        """Count bytes in. Raises Overloaded when they do not fit."""
        self.check(count)
        self.used += count

    def check(self, count: int) -> None:
        """Raise Overloaded when so many more bytes do not fit."""
        if self.used + count > self._max_bytes:
            self._on_full()
            raise Overloaded("Uploads in progress fill the memory set aside for them.", 1)

    @contextmanager
    def reserve(self) -> Iterator[Reservation]:
        """Hold bytes until the request is answered."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.used -= reservation.held


class ClientQuota:
    """Images per second and client, with a burst: the generic cell rate algorithm.

    One float per client: the time at which its allowance is full again. The least recently seen
    of `_CLIENTS_REMEMBERED` clients is forgotten first.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval_s = 1 / rate if rate else 0.0
        self._burst = burst
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def spend(self, client: str, images: int, now: float) -> None:
        """Count images against a client.

        Raises QuotaExceeded when it has none left, BadRequest when it could never have so many.
        """
        if not self._interval_s:
            return
        if images > self._burst:
            raise BadRequest(f"At most {self._burst} images at once per client.")
        full_at = max(now, self._full_at.get(client, now)) + images * self._interval_s
        wait_s = full_at - now - self._burst * self._interval_s
        if wait_s > 1e-9:
            raise QuotaExceeded(f"At most {1 / self._interval_s:g} images a second.", wait_s)
        self._full_at[client] = full_at
        self._full_at.move_to_end(client)
        if len(self._full_at) > _CLIENTS_REMEMBERED:
            self._full_at.popitem(last=False)


async def read_body(
    receive: Receive,
    content_length: str | None,
    limits: HttpLimits,
    reservation: Reservation,
    *,
    arrived: bool = False,
) -> bytes:
    """Read a request's body, at most `max_upload_bytes`, within the upload timeout.

    `arrived` says that the server has all of it already, so that no time can be lost on it.
    Raises UploadTooLarge from Content-Length alone where it says so, UploadTimeout, Overloaded,
    BadRequest for an empty body, or ClientGone.
    """
    if content_length is not None:
        announced = _parse_length(content_length)
        _check_length(announced, limits.max_upload_bytes)
        reservation.expect(announced)
    try:
        async with (
            contextlib.nullcontext() if arrived else asyncio.timeout(limits.upload_timeout_s)
        ):
            body = await _read(receive, reservation, limits.max_upload_bytes)
    except TimeoutError:
        raise UploadTimeout(
            f"The body did not arrive within {limits.upload_timeout_s:g} s."
        ) from None
    if not body:
        raise BadRequest("The body is empty; send the bytes of an image.")
    return body


async def _read(receive: Receive, reservation: Reservation, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        if chunk:
            size += len(chunk)
            _check_length(size, max_bytes)
            reservation.grow_to(size)
            chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _parse_length(content_length: str) -> int:
    if not content_length.isascii() or not content_length.isdigit():
        raise BadRequest("Content-Length is not a number.")
    return int(content_length)


def _check_length(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise UploadTooLarge(f"The upload has more than {max_bytes:,} bytes.")
