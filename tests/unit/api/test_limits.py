from __future__ import annotations

import time

import pytest

from tidegate.service.api.limits import ClientQuota, Quota, client_of
from tidegate.service.errors import BadRequest, QuotaExceeded


def quota_of(rate: float, burst: int) -> ClientQuota:
    return ClientQuota(lambda _: Quota(rate, burst))


def test_a_quota_refills_at_its_rate() -> None:
    quota = quota_of(rate=2, burst=3)
    for _ in range(3):
        quota.spend("a", 1, now=0.0)

    with pytest.raises(QuotaExceeded) as refusal:
        quota.spend("a", 1, now=0.0)
    assert refusal.value.retry_after_s == pytest.approx(0.5)
    quota.spend("a", 1, now=0.5)
    with pytest.raises(QuotaExceeded):
        quota.spend("a", 1, now=0.5)


def test_every_client_has_a_separate_quota() -> None:
    quota = quota_of(rate=1, burst=1)
    quota.spend("a", 1, now=0.0)

    quota.spend("b", 1, now=0.0)


def test_more_images_than_the_burst_are_always_rejected() -> None:
    with pytest.raises(BadRequest):
        quota_of(rate=100, burst=3).spend("a", 4, now=0.0)


def test_no_rate_is_no_limit() -> None:
    quota = quota_of(rate=0, burst=1)
    for _ in range(1000):
        quota.spend("a", 50, now=0.0)


def test_the_number_of_remembered_clients_is_limited() -> None:
    quota = quota_of(rate=1, burst=1)
    for client in range(10_001):
        quota.spend(str(client), 1, now=0.0)

    quota.spend("0", 1, now=0.0)  # the least recently seen client was dropped
    with pytest.raises(QuotaExceeded):
        quota.spend("10000", 1, now=0.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", False),
        ("fe80::1%eth0", "fe80::1%eth1", False),
        ("fe80::1%eth0", "fe80:0::1%eth0", True),
    ],
)
def test_an_ipv6_network_is_one_client(one: str, other: str, same: bool) -> None:
    clients = {client_of({"client": (host, 1)}) for host in (one, other)}

    assert (len(clients) == 1) is same


def test_a_client_without_an_address_is_counted_too() -> None:
    assert client_of({"client": None}) == "unknown"


def test_a_client_is_told_what_is_left_of_its_rate() -> None:
    quota = quota_of(rate=0.001, burst=3)
    fresh = dict(quota.fields("a"))
    assert fresh == {b"ratelimit-policy": b'"images";q=3;w=3000', b"ratelimit": b'"images";r=3;t=1'}

    quota.spend("a", 2, now=time.monotonic())

    assert dict(quota.fields("a"))[b"ratelimit"] == b'"images";r=1;t=2000'
    assert quota_of(rate=0, burst=3).fields("a") == []


def test_images_in_progress_are_limited_and_released() -> None:
    quota = ClientQuota(lambda _: Quota(rate=0, burst=1, concurrent=3))
    with quota.running("a", 2):
        with pytest.raises(QuotaExceeded) as refusal:
            quota.running("a", 2).__enter__()
        assert refusal.value.retry_after_s == 1.0
        with quota.running("a", 1), quota.running("b", 3):
            pass
    with pytest.raises(BadRequest, match="at most 3 images in progress"), quota.running("a", 4):
        pass
    with pytest.raises(RuntimeError), quota.running("a", 3):
        raise RuntimeError

    with quota.running("a", 3):
        pass
    assert not quota._table.running("a")
