"""A connection beyond the limit of a client address is rejected; the others keep working."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from tests.server import PATIENCE_S, Server, running

GET = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
ALLOWED = 3


def connect(server: Server, address: str) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), PATIENCE_S, (address, 0))


def answered(connection: socket.socket) -> bytes:
    connection.sendall(GET)
    return connection.recv(1 << 16)


def test_a_connection_beyond_the_limit_gets_503_and_the_others_work(
    small_bundle: Path,
) -> None:
    with running(small_bundle, max_client_connections=ALLOWED) as server:
        ours = [connect(server, "127.0.0.2") for _ in range(ALLOWED)]
        assert all(answered(connection).startswith(b"HTTP/1.1 200 ") for connection in ours)

        with connect(server, "127.0.0.2") as refused:
            answer = b"".join(iter(lambda: refused.recv(1 << 16), b""))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"application/problem+json" in answer
        assert b'"code":"overloaded"' in answer.replace(b": ", b":")

        assert all(answered(connection).startswith(b"HTTP/1.1 200 ") for connection in ours)
        with connect(server, "127.0.0.3") as other:
            assert answered(other).startswith(b"HTTP/1.1 200 ")
            other.sendall(
                GET.replace(b"/livez", b"/metrics").replace(b"x\r\n", b"x\r\nConnection: close\r\n")
            )
            metrics = b"".join(iter(lambda: other.recv(1 << 16), b""))
        assert re.search(rb'shed_total\{reason="client-connections"\} 1\.0', metrics)
        for connection in ours:
            connection.close()
