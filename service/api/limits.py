"""The limits on HTTP requests, and the quota of each client address."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tidegate.service.errors import BadRequest, QuotaExceeded

_CLIENTS_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The operator's limits on requests, in seconds and bytes."""

    max_upload_bytes: int
    max_inflight_bytes: int
    upload_timeout_s: float
    max_files: int  # images in one /classify/batch
    deadline_s: float  # if the client sets none
    max_deadline_s: float
    client_rate: float  # images per second per client address; 0 = no limit
    client_burst: int


def client_of(scope: MutableMapping[str, Any]) -> str:
    """Return the address that a request's quota and shares are counted for.

    An IPv6 client can use any address of its /64 network, so the network counts as one client. Not
    so for link-local addresses: every host of every attached network is in fe80::/64.
    """
    return address_of(scope.get("client"))


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


class ClientQuota:
    """A limit on images per second and client, with a burst: the generic cell rate algorithm.

    It keeps one float per client: the time at which its quota is full again. Beyond
    `_CLIENTS_REMEMBERED` clients, the least recently seen one is dropped.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval_s = 1 / rate if rate else 0.0
        self._burst = burst
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def spend(self, client: str, images: int, now: float) -> None:
        """Count images against a client.

        Raises QuotaExceeded if too few are left, or BadRequest if there are more than the burst.
        """
        if not self._interval_s:
            return
        if images > self._burst:
            raise BadRequest(f"A client may send at most {self._burst} images in one request.")
        full_at = max(now, self._full_at.get(client, now)) + images * self._interval_s
        wait_s = full_at - now - self._burst * self._interval_s
        if wait_s > 1e-9:
            raise QuotaExceeded(
                f"A client may send at most {1 / self._interval_s:g} images per second.", wait_s
            )
        self._full_at[client] = full_at
        self._full_at.move_to_end(client)
        if len(self._full_at) > _CLIENTS_REMEMBERED:
            self._full_at.popitem(last=False)
