"""The fields RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers-10)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QuotaState:
    """What is left of one quota of a client."""

    name: str  # a short identifier in ASCII, such as "images"
    burst: int  # images that may be sent at once when nothing was sent for a while
    rate: float  # images per second that are added up to the burst
    remaining: int  # images that may be sent now
    full_in_s: float  # until the whole burst may be sent again


def rate_limit_fields(states: Iterable[QuotaState]) -> list[tuple[bytes, bytes]]:
    """Return the response header fields that tell a client its quotas; none for no quota.

    `q` is the quota and `w` the seconds in which it is earned, `r` is what is left of it and `t`
    the seconds until all of it is there again.
    """
    states = list(states)
    if not states:
        return []
    policies = ", ".join(f'"{s.name}";q={s.burst};w={_seconds(s.burst / s.rate)}' for s in states)
    limits = ", ".join(f'"{s.name}";r={s.remaining};t={_seconds(s.full_in_s)}' for s in states)
    return [
        (b"ratelimit-policy", policies.encode("ascii")),
        (b"ratelimit", limits.encode("ascii")),
    ]


def _seconds(exact: float) -> int:
    return max(1, math.ceil(exact - 1e-9))
