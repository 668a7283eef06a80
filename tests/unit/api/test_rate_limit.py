from __future__ import annotations

from tidegate.service.api.rate_limit import QuotaState, rate_limit_fields


def test_a_quota_is_told_in_structured_fields() -> None:
    state = QuotaState("images", burst=32, rate=5, remaining=30, full_in_s=0.4)

    assert dict(rate_limit_fields([state])) == {
        b"ratelimit-policy": b'"images";q=32;w=7',
        b"ratelimit": b'"images";r=30;t=1',
    }


def test_several_quotas_are_one_list() -> None:
    states = [QuotaState("images", 1, 1, 0, 1), QuotaState("key", 10, 0.5, 7, 6)]

    fields = dict(rate_limit_fields(states))

    assert fields[b"ratelimit-policy"] == b'"images";q=1;w=1, "key";q=10;w=20'
    assert fields[b"ratelimit"] == b'"images";r=0;t=1, "key";r=7;t=6'


def test_without_a_quota_there_are_no_fields() -> None:
    assert rate_limit_fields([]) == []
