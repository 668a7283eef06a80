"""Who sent a request that came through proxies: X-Forwarded-For and Forwarded (RFC 7239). Pure.

Anyone can send these headers, so only what a trusted proxy has appended counts: the client is the
rightmost address that is not a trusted proxy's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

UNIX = "unix"  # in the setting: every client of the unix socket
_MAX_BYTES = 2048  # of the header; a longer one is not read
_MAX_HOPS = 32

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# A node of RFC 7239, or of X-Forwarded-For: an address with or without a port.
_NODE = re.compile(
    r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?|(?P<bare>[0-9A-Fa-f:.]+(?:%\w+)?)"
)
_PAIR = re.compile(
    r"\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?P<value>[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    r'|"(?:[^"\\]|\\.)*")\s*(?P<end>[;,]|$)'
)


class Proxies:
    """The proxies whose word about their client is believed."""

    def __init__(self, networks: Sequence[_Network], *, unix: bool = False) -> None:
        self._networks = tuple(networks)
        self._unix = unix
        self._client_of = lru_cache(maxsize=4096)(self._find_client)
        self.trust = lru_cache(maxsize=4096)(self._trust)

    def _trust(self, host: str | None) -> bool:
        """Return whether a connection comes from a proxy; None is a unix socket."""
        if host is None:
            return self._unix
        address = _parse_address(host)
        return address is not None and self._is_trusted(address)

    def resolve(self, scope: MutableMapping[str, Any]) -> None:
        """Replace the peer in a request's scope by its client, if a trusted proxy names one.

        It stays the peer if a header is malformed, or if two headers name different clients: a
        proxy writes one of them, and its client may have written the other.
        """
        client = scope.get("client")
        host = client[0] if client else None
        forwarded = b", ".join(v for n, v in scope["headers"] if n == b"x-forwarded-for")
        standard = b", ".join(v for n, v in scope["headers"] if n == b"forwarded")
        if not (forwarded or standard) or not self.trust(host):
            return
        if found := self._client_of(forwarded, standard):
            scope["client"] = (found, 0)

    def _find_client(self, forwarded: bytes, standard: bytes) -> str:
        """Return the client that the headers name; "" if they are not believed."""
        named = set()
        if forwarded:
            named.add(self._rightmost(_x_forwarded_for(forwarded)))
        if standard:
            named.add(self._rightmost(_forwarded(standard)))
        return named.pop() if len(named) == 1 else ""

    def _rightmost(self, nodes: Sequence[str] | None) -> str:
        """Return the last address that is not a proxy's, or the first one; "" if malformed."""
        if not nodes or len(nodes) > _MAX_HOPS:
            return ""
        text = ""
        for node in reversed(nodes):
            address = _parse_node(node)
            if address is None:
                return ""
            text = f"{address}"
            if not self._is_trusted(address):
                break
        return text

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def parse_proxies(text: str) -> Proxies:
    """Return the proxies of a comma-separated list of networks, addresses and "unix".

    Raises ValueError.
    """
    words = [word.strip() for word in text.split(",")]
    networks = []
    for word in words:
        if word != UNIX:
            try:
                networks.append(ipaddress.ip_network(word))
            except ValueError as error:
                raise ValueError(
                    f"{error}; expected networks such as 10.0.0.0/8, or unix"
                ) from None
    return Proxies(networks, unix=UNIX in words)


def _x_forwarded_for(value: bytes) -> list[str] | None:
    if len(value) > _MAX_BYTES:
        return None
    return [node.strip() for node in value.decode("latin-1").split(",")]


def _forwarded(value: bytes) -> list[str] | None:
    """Return the nodes of `for=` of all elements; None if one is malformed or has none."""
    if len(value) > _MAX_BYTES:
        return None
    try:
        return list(_elements(value.decode("latin-1")))
    except ValueError:
        return None


def _elements(text: str) -> Iterator[str]:
    position, node, is_open = 0, "", True
    while is_open:
        pair = _PAIR.match(text, position)
        if pair is None:
            raise ValueError("not a list of pairs")
        if pair["name"].lower() == "for":
            if node:
                raise ValueError("an element with two clients")
            node = _unquote(pair["value"])
        position, is_open = pair.end(), pair["end"] != ""
        if pair["end"] != ";":
            if not node:
                raise ValueError("an element without a client")
            yield node
            node = ""


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _parse_node(text: str) -> _Address | None:
    node = _NODE.fullmatch(text)
    if node is None:
        return None
    return _parse_address(node["v6"] or node["v4"] or node["bare"])


def _parse_address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
