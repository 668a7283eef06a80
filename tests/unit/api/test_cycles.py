"""Bodies are freed with their connection or answer, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import NoReturn

import pytest
from starlette.types import Receive, Scope, Send

from tests.unit.api.connecting import connected, nothing_in_it, run, until, upload
from tidegate.service.api.access_log import AccessLog
from tidegate.service.api.context import RequestContext
from tidegate.service.api.context_middleware import ContextMiddleware
from tidegate.service.catalog import Choice
from tidegate.service.metrics import Metrics

BODY = bytes(200_000)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def answers_unread(scope: Scope, receive: Receive, send: Send) -> None:
    await nothing_in_it(scope, receive, send)


async def waits_for_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@pytest.mark.parametrize("app", [answers_unread, waits_for_the_end])
@pytest.mark.parametrize(
    "sent",
    [
        upload(BODY),
        upload(BODY)[:-1],
        upload(BODY).replace(b"Host", b"Connection: upgrade\r\nUpgrade: h2c\r\nHost"),
        b"GET / HTTP/1.1\r\nX: " + BODY[:10_000].replace(b"\0", b"x"),
    ],
    ids=["whole", "part", "upgrade", "head"],
)
def test_a_lost_connection_and_its_request_are_freed(app: object, sent: bytes) -> None:
    async def scene() -> None:
        protocol, _ = connected(app)  # type: ignore[arg-type]  # both are applications
        protocol.data_received(sent)
        cycle = getattr(protocol, "cycle", None)
        gone = [weakref.ref(thing) for thing in (protocol, protocol._requests, cycle) if thing]
        tasks = list(protocol.tasks)
        for _ in range(5):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        del protocol, cycle
        await asyncio.gather(*tasks)
        tasks.clear()
        await asyncio.sleep(0)

        assert [thing() for thing in gone] == [None] * len(gone)

    run(scene())


def test_an_answer_frees_the_unread_part_of_its_body() -> None:
    async def scene() -> None:
        protocol, transport = connected(answers_unread)
        protocol.data_received(upload(BODY))
        await until(lambda: transport.written)

        assert len(protocol.cycle.body) == 0
        protocol.connection_lost(None)

    run(scene())


def test_the_previous_request_is_freed_on_an_open_connection() -> None:
    async def scene() -> None:
        protocol, transport = connected(answers_unread)
        protocol.data_received(upload(BODY))
        await until(lambda: transport.written)
        first = weakref.ref(protocol.cycle)
        await asyncio.sleep(0)
        protocol.data_received(upload(b"1"))
        await until(lambda: len(transport.written) == 2)

        assert first() is None
        protocol.connection_lost(None)

    run(scene())


def test_an_open_connection_does_not_keep_the_version_that_answered_last() -> None:
    class Version:
        """Stands in for a loaded version, of which the connection should know nothing."""

    version = Version()
    gone = weakref.ref(version)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal version
        RequestContext.of(scope).chosen = Choice(version)  # type: ignore[arg-type]  # see above
        del version
        await nothing_in_it(scope, receive, send)

    def no_error(error: BaseException, context: RequestContext) -> NoReturn:
        raise error

    async def scene() -> None:
        app = ContextMiddleware(answers, Metrics("test"), no_error, AccessLog())
        protocol, transport = connected(app)
        protocol.data_received(upload(b"1"))
        await until(lambda: transport.written and not protocol.tasks)

        assert gone() is None
        protocol.connection_lost(None)

    run(scene())
