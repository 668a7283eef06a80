"""The limits on HTTP requests, and the quota of each client."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from tidegate.service.api.rate_limit import QuotaState, rate_limit_fields
from tidegate.service.errors import BadRequest, QuotaExceeded

_CLIENTS_REMEMBERED = 10_000
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The operator's limits on requests, in seconds and bytes."""

    max_upload_bytes: int
    max_inflight_bytes: int
    upload_timeout_s: float
    max_files: int  # images in one /classify/batch
    deadline_s: float  # if the client sets none
    max_deadline_s: float


SUBJECT = "tidegate.subject"  # in the scope: what the request of a known client is counted for


def client_of(scope: MutableMapping[str, Any]) -> str:
    """Return what a request's quota and shares are counted for: its key, or else its address.

    An IPv6 client can use any address of its /64 network, so the network counts as one client. Not
    so for link-local addresses: every host of every attached network is in fe80::/64.
    """
    subject: str = scope.get(SUBJECT) or address_of(scope.get("client"))
    return subject


def address_of(client: tuple[str, int] | None) -> str:
    """Return the same for the host and port of a connection's client."""
    host = client[0] if client else "unknown"
    return _network(host) if ":" in host else host


@lru_cache(maxsize=4096)
def _network(host: str) -> str:
    address = ipaddress.IPv6Address(host)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if address.is_link_local:
        return str(address)  # with its interface, such as %eth0
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))


@dataclass(frozen=True, slots=True)
class Quota:
    """What one client may send."""

    rate: float  # images per second; 0 = no limit
    burst: int  # images
    concurrent: int | None = None  # images in progress


class QuotaTable(Protocol):
    """What is remembered of each client: when its quota is full again, and what is in progress."""

    def full_at(self, client: str) -> float:
        """Return that time, on time.monotonic(); 0 for a client that is not known."""
        ...

    def set_full_at(self, client: str, at: float) -> None:
        """Remember that time."""
        ...

    def running(self, client: str) -> int:
        """Return how many images of a client are in progress."""
        ...

    def run(self, client: str, images: int) -> AbstractContextManager[None]:
        """Count images as in progress."""
        ...


class OwnTable:
    """The table of a process that answers all clients by itself.

    Beyond `_CLIENTS_REMEMBERED` clients, the least recently seen one is dropped.
    """

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._running: Counter[str] = Counter()  # images of the clients with a limit on them

    def full_at(self, client: str) -> float:
        """Return when a client's quota is full again."""
        return self._full_at.get(client, 0.0)

    def set_full_at(self, client: str, at: float) -> None:
        """Remember when a client's quota is full again."""
        self._full_at[client] = at
        self._full_at.move_to_end(client)
        if len(self._full_at) > _CLIENTS_REMEMBERED:
            self._full_at.popitem(last=False)

    def running(self, client: str) -> int:
        """Return how many images of a client are in progress."""
        return self._running[client]

    @contextmanager
    def run(self, client: str, images: int) -> Iterator[None]:
        """Count images as in progress."""
        self._running[client] += images
        try:
            yield
        finally:
            self._running[client] -= images
            if not self._running[client]:
                del self._running[client]


class ClientQuota:
    """A limit on images per second and client, with a burst: the generic cell rate algorithm.

    It needs one float per client: the time at which its quota is full again.
    """

    def __init__(self, quota_of: Callable[[str], Quota], table: QuotaTable | None = None) -> None:
        """`quota_of` returns the quota of a client. `table` may be shared with other processes."""
        self._quota_of = quota_of
        self._table = table or OwnTable()

    def spend(self, client: str, images: int, now: float) -> None:
        """Count images against a client.

        Raises QuotaExceeded if too few are left, or BadRequest if there are more than the burst.
        """
        quota = self._quota_of(client)
        if not quota.rate:
            return
        if images > quota.burst:
            raise BadRequest(f"This client may send at most {quota.burst} images in one request.")
        interval_s = 1 / quota.rate
        full_at = max(now, self._table.full_at(client)) + images * interval_s
        wait_s = full_at - now - quota.burst * interval_s
        if wait_s > 1e-9:
            raise QuotaExceeded(
                f"This client may send at most {quota.rate:g} images per second.", wait_s
            )
        self._table.set_full_at(client, full_at)

    def fields(self, client: str) -> list[tuple[bytes, bytes]]:
        """Return the response fields that tell a client what is left of its rate, if it has one."""
        quota = self._quota_of(client)
        if not quota.rate:
            return []
        full_in_s = max(0.0, self._table.full_at(client) - time.monotonic())
        left = math.floor(quota.burst - full_in_s * quota.rate + 1e-9)
        state = QuotaState("images", quota.burst, quota.rate, max(0, left), full_in_s)
        return rate_limit_fields([state])

    def running(self, client: str, images: int) -> AbstractContextManager[None]:
        """Count images as in progress. Raises QuotaExceeded or BadRequest beyond the limit."""
        most = self._quota_of(client).concurrent
        if most is None:
            return nullcontext()
        if images > most:
            raise BadRequest(f"This client may have at most {most} images in progress.")
        if self._table.running(client) + images > most:
            raise QuotaExceeded(
                f"This client may have at most {most} images in progress.", _RETRY_S
            )
        return self._table.run(client, images)
