from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from starlette.types import Message

from service.api.limits import ByteBudget, ClientQuota, HttpLimits, read_body
from service.api.problems import ClientGone
from service.errors import (
    BadRequest,
    Overloaded,
    QuotaExceeded,
    TidegateError,
    UploadTimeout,
    UploadTooLarge,
)

LIMITS = HttpLimits(
    max_upload_bytes=100,
    max_inflight_bytes=150,
    upload_timeout_s=30,
    max_files=4,
    deadline_s=1,
    max_deadline_s=10,
    client_rate=0,
    client_burst=1,
)


def upload(*chunks: bytes, disconnects: bool = False) -> Callable[[], Awaitable[Message]]:
    """A client that sends these chunks and then ends, or goes away."""
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": disconnects or index < len(chunks) - 1}
        for index, chunk in enumerate(chunks)
    ]
    queue = iter([*messages, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(queue)

    return receive


def read(
    receive: Callable[[], Awaitable[Message]],
    content_length: str | None = None,
    limits: HttpLimits = LIMITS,
) -> bytes:
    async def scenario() -> bytes:
        with ByteBudget(limits.max_inflight_bytes, lambda: None).reserve() as reservation:
            return await read_body(receive, content_length, limits, reservation)

    return asyncio.run(scenario())


def test_a_body_in_pieces_is_put_together() -> None:
    assert read(upload(b"one ", b"", b"two"), "7") == b"one two"


@pytest.mark.parametrize(
    ("chunks", "length", "error"),
    [
        ([b""], None, BadRequest),
        ([b"x" * 101], None, UploadTooLarge),
        ([b"x" * 60, b"x" * 60], None, UploadTooLarge),
        ([b"x" * 60, b"x" * 60], "10", UploadTooLarge),
        ([], "101", UploadTooLarge),
        ([], "-1", BadRequest),
        ([], "²", BadRequest),
    ],
)
def test_a_body_out_of_bounds_is_refused(
    chunks: Sequence[bytes], length: str | None, error: type[TidegateError]
) -> None:
    with pytest.raises(error):
        read(upload(*chunks), length)


def test_a_client_that_leaves_half_way_is_noticed() -> None:
    with pytest.raises(ClientGone):
        read(upload(b"half", disconnects=True), "8")


def test_an_upload_that_stalls_times_out() -> None:
    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    hasty = HttpLimits(100, 150, 0.01, 4, 1, 10, 0, 1)

    with pytest.raises(UploadTimeout):
        read(never, limits=hasty)


def test_the_budget_refuses_what_does_not_fit_and_gets_its_bytes_back() -> None:
    full: list[bool] = []
    budget = ByteBudget(100, lambda: full.append(True))
    with budget.reserve() as first:
        first.grow_to(80)
        with budget.reserve() as second, pytest.raises(Overloaded):
            second.grow_to(30)
        assert budget.used == 80

    assert budget.used == 0
    assert full == [True]


def test_a_quota_refills_at_its_rate() -> None:
    quota = ClientQuota(rate=2, burst=3)
    for _ in range(3):
        quota.spend("a", 1, now=0.0)

    with pytest.raises(QuotaExceeded) as refusal:
        quota.spend("a", 1, now=0.0)
    assert refusal.value.retry_after_s == pytest.approx(0.5)
    quota.spend("a", 1, now=0.5)
    with pytest.raises(QuotaExceeded):
        quota.spend("a", 1, now=0.5)


def test_quotas_are_each_clients_own() -> None:
    quota = ClientQuota(rate=1, burst=1)
    quota.spend("a", 1, now=0.0)

    quota.spend("b", 1, now=0.0)


def test_more_images_than_the_burst_never_fit() -> None:
    with pytest.raises(BadRequest):
        ClientQuota(rate=100, burst=3).spend("a", 4, now=0.0)


def test_no_rate_is_no_limit() -> None:
    quota = ClientQuota(rate=0, burst=1)
    for _ in range(1000):
        quota.spend("a", 50, now=0.0)


def test_only_so_many_clients_are_remembered() -> None:
    quota = ClientQuota(rate=1, burst=1)
    for client in range(10_001):
        quota.spend(str(client), 1, now=0.0)

    quota.spend("0", 1, now=0.0)  # the least recently seen was forgotten
    with pytest.raises(QuotaExceeded):
        quota.spend("10000", 1, now=0.0)
