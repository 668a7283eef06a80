"""An explanation waits for its client's quota, but not beyond its deadline."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import pytest

from tidegate.service.api.intake import Intake
from tidegate.service.api.limits import ClientQuota, Quota
from tidegate.service.api.routes.inspection import MAX_GRID, Options, _spend_in_time
from tidegate.service.errors import BadRequest, QuotaExceeded
from tidegate.service.pipeline import Upload


def an_intake(rate: float, burst: int) -> Intake:
    """Return the only part of an intake that is used here: its quota."""
    quota = ClientQuota(lambda _: Quota(rate, burst))
    spend = lambda client, images: quota.spend(client, images, time.monotonic())  # noqa: E731
    return cast("Intake", SimpleNamespace(spend=spend))


def an_upload(left_s: float) -> Upload:
    now = time.monotonic()
    return Upload(b"", now, now + left_s, 1, client="192.0.2.1")


def test_a_run_waits_until_the_quota_allows_it() -> None:
    intake, started = an_intake(rate=100, burst=1), time.monotonic()

    for _ in range(4):
        asyncio.run(_spend_in_time(intake, an_upload(60)))

    assert time.monotonic() - started > 0.025


def test_a_run_that_would_wait_beyond_the_deadline_is_over_the_quota() -> None:
    intake = an_intake(rate=0.01, burst=1)
    asyncio.run(_spend_in_time(intake, an_upload(1)))

    with pytest.raises(QuotaExceeded):
        asyncio.run(_spend_in_time(intake, an_upload(1)))


def test_options_are_read() -> None:
    assert Options.of(b"") == Options(7, None)
    assert Options.of(b"class_id=0&grid=14&other=1") == Options(MAX_GRID, 0)


@pytest.mark.parametrize("query", [b"grid=", b"grid=1", b"class_id=x", b"class_id=1&class_id=1"])
def test_any_other_option_is_a_bad_request(query: bytes) -> None:
    with pytest.raises(BadRequest, match=r"grid|class_id"):
        Options.of(query)
