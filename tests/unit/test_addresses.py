"""The service listens once on each configured address."""

# ruff: noqa: S104 - nothing listens longer than a test

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tidegate.service.addresses import hosts_to_probe, listen, split_hosts


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")


@contextlib.contextmanager
def listening(text: str, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = listen(split_hosts(text), port)
    try:
        yield sockets
    finally:
        for listener in sockets:
            listener.close()


def bound(sockets: list[socket.socket]) -> list[str]:
    return [listener.getsockname()[0] for listener in sockets]


@needs_ipv6
def test_the_wildcard_of_ipv6_serves_both_families() -> None:
    with listening("::") as sockets:
        port = sockets[0].getsockname()[1]

        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=60).close()


@needs_ipv6
def test_an_ipv4_client_of_the_wildcard_has_its_ipv4_address() -> None:
    with listening("::") as sockets:
        port = sockets[0].getsockname()[1]
        (ipv4,) = (s for s in sockets if s.family == socket.AF_INET)

        with socket.create_connection(("127.0.0.1", port), timeout=60):
            accepted, peer = ipv4.accept()
            accepted.close()

    assert peer[0] == "127.0.0.1"


@needs_ipv6
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1,::1", ["127.0.0.1", "::1"]),
        ("[::1], 127.0.0.1", ["::1", "127.0.0.1"]),
        ("localhost", ["127.0.0.1", "::1"]),
        ("localhost,127.0.0.1,::1", ["127.0.0.1", "::1"]),
        ("127.0.0.1,127.0.0.2", ["127.0.0.1", "127.0.0.2"]),
        ("::", ["::", "0.0.0.0"]),
        ("0:0::0", ["::", "0.0.0.0"]),
        ("0.0.0.0,::", ["0.0.0.0", "::"]),
        ("::1,::,127.0.0.1", ["::", "0.0.0.0"]),
        ("0.0.0.0,127.0.0.1,::1", ["0.0.0.0", "::1"]),
    ],
)
def test_every_address_is_listened_on_once_and_at_one_port(text: str, expected: list[str]) -> None:
    with listening(text) as sockets:
        assert bound(sockets) == expected
        assert len({listener.getsockname()[1] for listener in sockets}) == 1


def test_a_port_that_is_free_only_on_the_first_address_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened, create_server = [], socket.create_server

    def taken_once(address: tuple[str, int], **options: Any) -> socket.socket:
        opened.append(address)
        if len(opened) == 2:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return create_server(address, **options)

    monkeypatch.setattr(socket, "create_server", taken_once)

    with listening("127.0.0.1,127.0.0.2") as sockets:
        assert bound(sockets) == ["127.0.0.1", "127.0.0.2"]
    assert [address[0] for address in opened] == ["127.0.0.1", "127.0.0.2"] * 2


def test_a_port_in_use_on_one_address_leaves_no_socket_open() -> None:
    with listening("127.0.0.2") as sockets:
        port = sockets[0].getsockname()[1]

        with pytest.raises(OSError, match=r"127\.0\.0\.2: Address already in use"):
            listen(["127.0.0.1", "127.0.0.2"], port)
        with listening("127.0.0.1", port):
            pass


def test_an_address_of_another_host_is_rejected() -> None:
    with pytest.raises(OSError, match=r"192\.0\.2\.1: Cannot assign"):
        listen(["127.0.0.1", "192.0.2.1"], 0)


def test_addresses_of_a_name_that_this_host_does_not_have_are_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, not_ours = (
        socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM) for host in ("127.0.0.1", "192.0.2.1")
    )
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: not_ours + ours)

    with listening("a-name") as sockets:
        assert bound(sockets) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("127.0.0.1", ("127.0.0.1",)),
        ("0.0.0.0", ("127.0.0.1",)),
        ("::", ("::1", "127.0.0.1")),
        ("192.0.2.1,[::1]", ("192.0.2.1", "::1")),
        ("0.0.0.0,::", ("127.0.0.1", "::1")),
    ],
)
def test_a_wildcard_is_probed_at_the_loopback_address(text: str, hosts: tuple[str, ...]) -> None:
    assert hosts_to_probe(text) == hosts


@pytest.mark.parametrize("text", ["127.0.0.1,", ",::", "::1,,127.0.0.1"])
def test_an_empty_address_in_a_list_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="empty address"):
        split_hosts(text)
