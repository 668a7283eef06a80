"""A drain under load: persistent clients that honour `Connection: close` lose no request."""

from __future__ import annotations

import http
import http.client
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.server import PATIENCE_S, Server, running


class PersistentClient(threading.Thread):
    """Sends one request after another until it can no longer connect; counts lost requests."""

    def __init__(self, server: Server, path: str, body: bytes | None) -> None:
        super().__init__()
        self._address = server.url.removeprefix("http://").split(":")
        self._path, self._body = path, body
        self.answered, self.closes = 0, 0
        self.lost: list[str] = []
        self.busy = threading.Event()

    def run(self) -> None:
        while (connection := self._connect()) is not None:
            while self._ask(connection):
                pass
            connection.close()

    def _connect(self) -> http.client.HTTPConnection | None:
        host, port = self._address
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_S)
        try:
            connection.connect()
        except ConnectionRefusedError:
            return None
        return connection

    def _ask(self, connection: http.client.HTTPConnection) -> bool:
        """Return whether the connection can be used again."""
        try:
            connection.request("POST" if self._body else "GET", self._path, self._body)
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self.lost.append(repr(error))
            return False
        if response.status != http.HTTPStatus.OK:
            self.lost.append(f"answered {response.status}")
        self.answered += 1
        if self.answered > 5:
            self.busy.set()
        self.closes += response.will_close
        return not response.will_close


@pytest.mark.parametrize("drain_delay_s", [0, 0.5])
def test_persistent_clients_lose_no_request_in_a_drain(
    small_bundle: Path, chelsea: bytes, drain_delay_s: float
) -> None:
    with running(small_bundle, drain_delay_s=drain_delay_s) as server:
        clients = [
            *(PersistentClient(server, "/livez", None) for _ in range(4)),
            *(PersistentClient(server, "/classify", chelsea) for _ in range(4)),
        ]
        for client in clients:
            client.start()
        for client in clients:
            assert client.busy.wait(PATIENCE_S)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(PATIENCE_S)

        assert server.process.wait(PATIENCE_S) == 0

    assert [client.lost for client in clients] == [[]] * len(clients)
    assert all(client.closes for client in clients)


def test_each_answer_after_sigterm_closes_and_idle_connections_are_kept(small_bundle: Path) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with running(small_bundle, drain_delay_s=3600) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as idle:
            idle.sendall(request)
            before = idle.recv(65536)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            idle.sendall(request)
            after = b"".join(iter(lambda: idle.recv(65536), b""))
        server.process.send_signal(signal.SIGTERM)  # it would drain for an hour

    assert b"connection: close" not in before
    assert after.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in after


def test_an_idle_connection_does_not_delay_the_exit(small_bundle: Path) -> None:
    with running(small_bundle, drain_timeout_s=3600) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection(
            (host, int(port)), timeout=60
        ) as idle:  # below its keep-alive time
            idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
            server.process.send_signal(signal.SIGTERM)

            assert idle.recv(65536) == b""
            assert server.process.wait(60) == 0
