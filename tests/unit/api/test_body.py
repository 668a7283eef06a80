from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from starlette.requests import Request
from starlette.types import Message

from tidegate.service.api import body as body_module
from tidegate.service.api.body import BodyLimits, Pieces, read_body
from tidegate.service.api.connection import ClientGone, Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.uploads import PROGRESS_BYTES, ByteBudget
from tidegate.service.errors import (
    BadRequest,
    Overloaded,
    TidegateError,
    UploadTimeout,
    UploadTooLarge,
)

LIMITS = BodyLimits(max_bytes=100, timeout_s=30)
Receive = Callable[[], Awaitable[Message]]


def chunk(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


def upload(*chunks: bytes, disconnects: bool = False) -> Receive:
    """A client that sends these chunks, and then ends the body or disconnects."""
    messages = [
        chunk(data, more=disconnects or index < len(chunks) - 1)
        for index, data in enumerate(chunks)
    ]
    queue = iter([*messages, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(queue)

    return receive


def sending(messages: AsyncIterator[Message]) -> Receive:
    async def receive() -> Message:
        return await anext(messages)

    return receive


def request(receive: Receive, content_length: str | None = None, *, here: bool = False) -> Request:
    context, connection = RequestContext("r", content_length=content_length), Connection()
    connection.body_is_here = here
    scope = {"type": "http", "tidegate": context, Connection.KEY: connection}
    return Request(scope, receive)


def budget(max_bytes: int = 150, max_body_bytes: int = 100) -> ByteBudget:
    return ByteBudget(max_bytes, max_body_bytes, lambda: None)


def read(receive: Receive, content_length: str | None = None, limits: BodyLimits = LIMITS) -> bytes:
    async def scenario() -> bytes:
        with budget().reserve("a") as reservation:
            return await read_body(request(receive, content_length), reservation, limits)

    return asyncio.run(scenario())


def test_a_body_in_pieces_is_put_together() -> None:
    assert read(upload(b"one ", b"", b"two ", b"three"), "13") == b"one two three"


def test_an_empty_body_is_empty() -> None:
    assert read(upload(b"")) == b""


def test_one_piece_is_not_copied() -> None:
    whole, pieces = bytes(1000), Pieces()
    pieces.add(whole)

    assert pieces.joined() is whole


@pytest.mark.parametrize(
    ("chunks", "length", "error"),
    [
        ([b"x" * 101], None, UploadTooLarge),
        ([b"x" * 60, b"x" * 60], None, UploadTooLarge),
        ([b"x" * 60, b"x" * 60], "10", UploadTooLarge),
        ([], "101", UploadTooLarge),
        ([], "-1", BadRequest),
        ([], "²", BadRequest),
        ([], "9" * 5000, BadRequest),
        ([], "", BadRequest),
    ],
)
def test_a_body_that_exceeds_a_limit_is_rejected(
    chunks: Sequence[bytes], length: str | None, error: type[TidegateError]
) -> None:
    with pytest.raises(error):
        read(upload(*chunks), length)


def test_a_disconnect_during_the_upload_is_noticed() -> None:
    with pytest.raises(ClientGone):
        read(upload(b"half", disconnects=True), "8")


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


def test_an_upload_that_takes_too_long_times_out() -> None:
    with pytest.raises(UploadTimeout, match=r"within 0\.01 s"):
        read(never, limits=BodyLimits(100, timeout_s=0.01))


def test_a_stalled_upload_times_out_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "STALL_S", 0.01)

    with pytest.raises(UploadTimeout, match="stalled"):
        read(never, limits=BodyLimits(100, timeout_s=3600))


def test_a_trickle_is_not_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "STALL_S", 0.05)

    async def drip() -> AsyncIterator[Message]:
        while True:  # in every loop iteration, but never 8 kB in total
            yield chunk(b"")
            await asyncio.sleep(0)

    with pytest.raises(UploadTimeout, match="stalled"):
        read(sending(drip()), limits=BodyLimits(100, timeout_s=3600))


def test_progress_extends_the_stall_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stall timeout starts again after each piece."""
    monkeypatch.setattr(body_module, "STALL_S", 3600)
    pieces = 3

    async def scenario() -> int:
        loop = asyncio.get_running_loop()

        async def steady() -> AsyncIterator[Message]:
            for index in range(pieces):
                monkeypatch.setattr(body_module, "STALL_S", 3600 + index)
                yield chunk(bytes(PROGRESS_BYTES), more=index < pieces - 1)

        ends: list[float] = []
        stalls_at = body_module._Receiver._stalls_at

        def noted(receiver: body_module._Receiver) -> float:
            ends.append(stalls_at(receiver) - loop.time())
            return stalls_at(receiver)

        monkeypatch.setattr(body_module._Receiver, "_stalls_at", noted)
        room = budget(10**6, 10**6)
        with room.reserve("a") as reservation:
            limits = BodyLimits(10**6, timeout_s=10**5)
            await read_body(request(sending(steady())), reservation, limits)
        return len(ends)

    assert asyncio.run(scenario()) == 1 + pieces


def test_a_stalled_upload_makes_room_for_another() -> None:
    """The stalled one gets 408, the other is read, and no byte stays reserved."""
    now = [0.0]
    room = ByteBudget(100, 100, lambda: None, clock=lambda: now[0])

    async def one(client: str, receive: Receive) -> bytes:
        with room.reserve(client) as reservation:
            return await read_body(request(receive), reservation, LIMITS)

    async def scenario() -> None:
        stalls = asyncio.Event()

        async def stalling() -> AsyncIterator[Message]:
            yield chunk(b"x" * 90)
            stalls.set()
            await asyncio.Event().wait()

        stalled = asyncio.create_task(one("a", sending(stalling())))
        await stalls.wait()
        with pytest.raises(Overloaded):
            await one("b", upload(b"y" * 60))  # it may only be slow
        now[0] = 2.0

        assert await one("b", upload(b"y" * 60)) == b"y" * 60
        with pytest.raises(UploadTimeout, match="other requests needed its memory"):
            await stalled
        assert room.used == 0

    asyncio.run(scenario())


def test_an_evicted_upload_reads_no_more() -> None:
    """Even if its last piece arrives at the same moment, it ends."""
    room = budget()

    async def scenario() -> None:
        with room.reserve("a") as reservation:

            async def last() -> AsyncIterator[Message]:
                yield chunk(b"x" * 50)
                room.release(reservation)
                reservation.end("share")
                yield chunk(b"x", more=False)

            with pytest.raises(Overloaded):
                await read_body(request(sending(last())), reservation, LIMITS)
            assert room.used == 0

    asyncio.run(scenario())


def test_a_complete_body_needs_no_timer() -> None:
    async def scenario() -> bytes:
        with budget().reserve("a") as reservation:
            limits = BodyLimits(100, timeout_s=0)  # would time out at once
            return await read_body(request(upload(b"all"), here=True), reservation, limits)

    assert asyncio.run(scenario()) == b"all"
