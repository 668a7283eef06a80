"""Resolve the addresses to listen on: a list of addresses and host names; `::` is both families."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Sequence

ANY_IPV4, ANY_IPV6 = "0.0.0.0", "::"  # noqa: S104 - recognised here, bound only if configured
NO_HOST = "none"
_LOOPBACK = {ANY_IPV4: ("127.0.0.1",), ANY_IPV6: ("::1", "127.0.0.1")}
_BACKLOG = 2048
_FREE_PORT_TRIES = 20
# A name may resolve to an address, or to an address family, that this host does not have.
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

_Address = tuple[int, tuple[str, int]]  # family; host and port, with flow and scope for IPv6


def split_hosts(text: str) -> tuple[str, ...]:
    """Return the hosts of a comma-separated list, without brackets; no host for `none`.

    Raises ValueError if one of them is empty.
    """
    if text.strip() == NO_HOST:
        return ()
    hosts = tuple(host.strip().removeprefix("[").removesuffix("]") for host in text.split(","))
    if "" in hosts:
        raise ValueError("the list has an empty address")
    return hosts


def hosts_to_probe(text: str) -> tuple[str, ...]:
    """Return the hosts at which a process on this machine reaches a service listening on `text`.

    A wildcard address is replaced by loopback addresses, because it is not one to connect to.
    """
    hosts = (_LOOPBACK.get(host, (host,)) for host in split_hosts(text))
    return tuple(dict.fromkeys(address for addresses in hosts for address in addresses))


def url_of(listener: socket.socket, is_encrypted: bool = False) -> str:
    """Return the URL of a listening socket; of a unix socket, unix: and its path."""
    name = listener.getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host, port = name[:2]
    scheme = "https" if is_encrypted else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Return listening sockets for every address of every host.

    Port 0 selects a port that is free on all addresses. `::` is every address of IPv4 and IPv6. It
    gets one socket per family, so that an IPv4 client is reported with its own address and not as
    ::ffff:a.b.c.d. If a name has several addresses, those that this host does not have are skipped.
    Raises OSError or UnicodeError if an address cannot be listened on.
    """
    resolved = [list(dict.fromkeys(_resolve(host, port))) for host in hosts]
    for _ in range(_FREE_PORT_TRIES if port == 0 else 1):
        with contextlib.ExitStack() as opened:
            try:
                sockets = _open_all(_without_covered(resolved), port, opened)
            except OSError as error:
                if port == 0 and error.errno == errno.EADDRINUSE:
                    continue  # the port is in use on another address
                raise
            opened.pop_all()
            return sockets
    raise OSError(errno.EADDRINUSE, "No port is free on all addresses")


def _resolve(host: str, port: int) -> Iterator[_Address]:
    # A hosts file may list only one family.
    for name in ("127.0.0.1", "::1") if host == "localhost" else (host,):
        for family, _, _, _, address in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM):
            if family in (socket.AF_INET, socket.AF_INET6):
                yield family, address  # type: ignore[misc]  # typeshed includes other families
                if address[0] == ANY_IPV6:
                    yield socket.AF_INET, (ANY_IPV4, port)


def _without_covered(resolved: Sequence[Sequence[_Address]]) -> Iterator[list[_Address]]:
    """Yield each host's addresses without those listed before or covered by a wildcard."""
    listed = {address for addresses in resolved for address in addresses}
    wild = {family for family, address in listed if address[0] in (ANY_IPV4, ANY_IPV6)}
    for addresses in resolved:
        left = [
            (family, address)
            for family, address in addresses
            if (family, address) in listed
            and (family not in wild or address[0] in (ANY_IPV4, ANY_IPV6))
        ]
        listed -= set(left)
        if left:
            yield left


def _open_all(
    hosts: Iterator[list[_Address]], port: int, opened: contextlib.ExitStack
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    for addresses in hosts:
        before = len(sockets)
        missing: OSError | None = None
        for family, address in addresses:
            try:  # if port is 0, later sockets use the port of the first one
                sockets.append(opened.enter_context(_open(family, address, port)))
            except OSError as error:
                if error.errno not in _NOT_HERE or address[0] == ANY_IPV6:
                    raise
                missing = error
            else:
                port = port or sockets[-1].getsockname()[1]
        if missing and len(sockets) == before:
            raise missing
    return sockets


def _open(family: int, address: tuple[str, int], port: int) -> socket.socket:
    try:
        return socket.create_server(
            (address[0], port, *address[2:]), family=family, backlog=_BACKLOG
        )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"{address[0]}: {reason}") from error
