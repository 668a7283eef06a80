"""The generator's accounting, on a real socket with a fake server."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from load_tests.client.connection import MAX_RESPONSE_BYTES, Pool
from load_tests.generator.arrivals import constant
from load_tests.generator.loops import Outcome, Sender, closed_loop, open_loop
from tests.unit.load_tests.fakes import OK, OVERLOADED, REQUEST, FakeServer, listening, response

STALL_S = 0.4


@asynccontextmanager
async def _sender(
    fake: FakeServer, max_connections: int = 64, timeout_s: float = 10.0, **options: Any
) -> AsyncIterator[tuple[Sender, list[Outcome]]]:
    """Yield a sender to the fake, and the list of its outcomes."""
    async with listening(fake) as port:
        pool = Pool("127.0.0.1", port, max_connections)
        outcomes: list[Outcome] = []
        try:
            yield (
                Sender(pool, itertools.repeat(REQUEST), timeout_s, outcomes.append, **options),
                outcomes,
            )
        finally:
            pool.close()


def _open(
    fake: FakeServer, count: int, rate: float, stall_s: float = 0.0, **options: Any
) -> list[Outcome]:
    """Send `count` requests at a constant rate; the fake first stalls for `stall_s`."""

    async def run() -> list[Outcome]:
        async with _sender(fake, **options) as (sender, outcomes):
            if stall_s:
                fake.stall(stall_s)
            await open_loop(sender, constant(rate, count / rate))
        return sorted(outcomes, key=lambda outcome: outcome.at_s)

    return asyncio.run(run())


@pytest.mark.lengthy
@pytest.mark.parametrize("max_connections", [1, 64])
def test_a_stall_is_charged_to_every_request_that_it_delayed(max_connections: int) -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 60, rate=100, stall_s=STALL_S, max_connections=max_connections)

    # The intended times are 10 ms apart and nothing is answered for 400 ms, so request i waits
    # about 400 − 10·i ms, in the client or the server. 20 ms: timer and scheduling noise.
    assert all(o.answered for o in outcomes)
    for i, outcome in enumerate(outcomes[:40]):
        assert outcome.latency_s >= STALL_S - 0.01 * i - 0.02


@pytest.mark.lengthy
def test_timing_from_the_write_would_have_hidden_the_stall() -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 60, rate=100, stall_s=STALL_S, max_connections=1)

    slow = STALL_S / 4
    seen = sum(o.latency_s > slow for o in outcomes)
    assert seen >= 25
    # One by the stall; a few more if the machine is busy, which delays the others too.
    assert 1 <= sum(o.service_s is not None and o.service_s > slow for o in outcomes) < seen / 2


def test_open_loop_requests_are_sent_while_the_server_stalls() -> None:
    fake = FakeServer([OK], silent_until=30)

    outcomes = _open(fake, 30, rate=1000)

    # Answers came only once all 30 were there: a closed loop would still be waiting for the first.
    assert all(o.answered for o in outcomes)


def test_statuses_codes_and_retry_after_are_recorded_per_request() -> None:
    fake = FakeServer([OK, OVERLOADED])

    outcomes = _open(fake, 10, rate=1000, max_connections=1)

    assert [o.status for o in outcomes] == [200, 503] * 5
    assert {o.code for o in outcomes if o.status == 503} == {"overloaded"}
    assert {o.retry_after_s for o in outcomes if o.status == 503} == {2.0}
    assert {o.answered for o in outcomes if o.status == 503} == {False}


def test_an_out_of_distribution_rejection_counts_as_answered() -> None:
    body = b'{"type": "urn:tidegate:problem:out-of-distribution"}'
    reply = b"HTTP/1.1 422 No\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    outcomes = _open(FakeServer([reply]), 1, rate=1000)

    assert outcomes[0].answered


def test_whole_bodies_arrive_over_kept_connections() -> None:
    fake = FakeServer([OK])

    _open(fake, 20, rate=1000, max_connections=2)

    assert fake.bodies == [b"image"] * 20
    assert fake.connections <= 2


def test_a_disconnect_is_an_error_and_the_next_request_has_a_new_connection() -> None:
    fake = FakeServer([OK, b""])

    outcomes = _open(fake, 6, rate=1000, max_connections=1)

    assert [o.error for o in outcomes] == [None, "disconnected"] * 3
    assert fake.connections == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{}", "disconnected"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MAX_RESPONSE_BYTES)
            + bytes(MAX_RESPONSE_BYTES + 1),
            "malformed",
        ),
    ],
    ids=["not-http", "truncated", "too-large"],
)
def test_a_broken_response_is_an_error(reply: bytes, error: str) -> None:
    outcomes = _open(FakeServer([reply]), 1, rate=1000)

    assert [o.error for o in outcomes] == [error]


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
    ids=["framed-by-close", "chunked", "continue-first"],
)
@pytest.mark.parametrize("trickle", [False, True])
def test_every_framing_of_http_is_read(reply: bytes, trickle: bool) -> None:
    outcomes = _open(FakeServer([reply], trickle), 3, rate=1000, max_connections=1)

    assert [o.status for o in outcomes] == [200] * 3


def test_a_timeout_is_an_error_and_closes_its_connection() -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 3, rate=1000, stall_s=60, timeout_s=0.1)

    assert [o.error for o in outcomes] == ["timeout"] * 3
    assert all(0.1 <= o.latency_s < 60 for o in outcomes)


def test_refused_connections_are_counted_not_raised() -> None:
    with socket.socket() as unlistened:  # bound, so that no other process listens there
        unlistened.bind(("127.0.0.1", 0))
        port = unlistened.getsockname()[1]
        outcomes: list[Outcome] = []

        async def run() -> None:
            pool = Pool("127.0.0.1", port, 4)
            sender = Sender(pool, itertools.repeat(REQUEST), 1.0, outcomes.append)
            await open_loop(sender, constant(100, 0.05))

        asyncio.run(run())

    assert [o.error for o in outcomes] == ["refused"] * 5
    assert {o.service_s for o in outcomes} == {None}


def test_closed_loop_keeps_its_number_of_connections_and_stops() -> None:
    fake = FakeServer([OK])

    async def run() -> list[Outcome]:
        async with _sender(fake, max_connections=3) as (sender, outcomes):
            await closed_loop(sender, 3, 0.2)
        return outcomes

    outcomes = asyncio.run(run())

    assert len(outcomes) >= 3
    assert all(o.answered for o in outcomes)
    assert fake.connections == 3


def test_a_client_that_vanishes_is_neither_an_answer_nor_an_error() -> None:
    fake = FakeServer([OK])

    outcomes = _open(fake, 20, rate=1000, vanish=1.0)

    assert all(o.vanished for o in outcomes)
    assert {(o.status, o.error, o.answered, o.refused) for o in outcomes} == {
        (None, None, False, False)
    }
    assert fake.connections == 20  # each closed its connection


def test_a_share_of_the_clients_vanishes_and_the_others_are_answered() -> None:
    outcomes = _open(FakeServer([OK]), 200, rate=2000, vanish=0.3)

    vanished = sum(o.vanished for o in outcomes)
    assert 30 <= vanished <= 90  # 60 expected; five standard deviations are 32
    assert sum(o.answered for o in outcomes) == 200 - vanished


def test_without_keep_alive_every_request_has_its_own_connection() -> None:
    fake = FakeServer([OK])

    async def run() -> None:
        async with listening(fake) as port:
            pool = Pool("127.0.0.1", port, 4, keep_alive=False)
            sender = Sender(pool, itertools.repeat(REQUEST), 10.0, lambda _: None)
            await open_loop(sender, constant(1000, 0.01))

    asyncio.run(run())

    assert fake.connections == 10


def test_the_servers_prediction_is_paired_with_the_actual_time() -> None:
    timed = response(
        b'{"timing_ms": {"total": 50}}', 200, b"Server-Timing: db;dur=1, predicted;dur=41.5\r\n"
    )
    silent = response(b'{"timing_ms": {"total": 50}}')

    outcomes = _open(
        FakeServer([timed, silent, OVERLOADED]), 3, 1000, max_connections=1, predictions=True
    )

    assert [(o.predicted_ms, o.total_ms) for o in outcomes] == [
        (41.5, 50.0),
        (None, None),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("timing", "body"),
    [
        (b"predicted;dur=x", b'{"timing_ms": {"total": 50}}'),
        (b"predicted", b'{"timing_ms": {"total": 50}}'),
        (b"predicted;dur=1", b'{"timing_ms": 5}'),
        (b"predicted;dur=1", b"not json"),
        (b"predicted;dur=1", b"[]"),
    ],
)
def test_an_invalid_prediction_is_ignored(timing: bytes, body: bytes) -> None:
    reply = response(body, 200, b"Server-Timing: %s\r\n" % timing)

    outcomes = _open(FakeServer([reply]), 1, 1000, predictions=True)

    assert [(o.status, o.predicted_ms, o.total_ms) for o in outcomes] == [(200, None, None)]
