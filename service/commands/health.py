"""`tidegate health`. It does not load the service, as a health check runs every few seconds."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import sys
import time

from tidegate.service.addresses import hosts_to_probe
from tidegate.service.commands import Commands
from tidegate.service.platforms import preset

_TIMEOUT_S = 2.0
_MOST_BYTES = 4096


def add(commands: Commands) -> None:
    """Declare the command."""
    health = commands.add_parser(
        "health", help="check whether the service on this machine is ready; for health checks"
    )
    health.set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    names = {name.upper(): value.strip() for name, value in os.environ.items()}
    usual = preset(names.get("TIDEGATE_PLATFORM", ""), os.environ)
    # The admin port needs no client's certificate.
    port = (
        names.get("TIDEGATE_ADMIN_PORT") or names.get("TIDEGATE_PORT") or usual.get("port", "8000")
    )
    path = names.get("TIDEGATE_UNIX_SOCKET")
    is_encrypted = bool(names.get("TIDEGATE_TLS_CERTIFICATE"))
    end = time.monotonic() + _TIMEOUT_S
    failed = ""
    try:
        hosts = hosts_to_probe(names.get("TIDEGATE_HOST") or usual.get("host", "127.0.0.1"))
        clients = [_connection(host, int(port), is_encrypted) for host in hosts]
        for client in [*clients, *([_UnixConnection(path)] if path else [])]:
            client.timeout = max(0.1, end - time.monotonic())
            try:
                status, text = _probe(client)
            except (OSError, http.client.HTTPException) as error:
                failed = failed or f"{error}"
            else:
                print(text)
                return 0 if status == http.HTTPStatus.OK else 1
    except ValueError as error:
        failed = f"{error}"
    print(f"tidegate: not reachable: {failed}", file=sys.stderr)
    return 1


def _connection(host: str, port: int, is_encrypted: bool) -> http.client.HTTPConnection:
    if not is_encrypted:
        return http.client.HTTPConnection(host, port)
    import ssl

    # The address is this machine's own, and its certificate is for the name that others use.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, context=context)


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of an address."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _probe(client: http.client.HTTPConnection) -> tuple[int, str]:
    """Return status and body of `/readyz`, whatever the status is."""
    with contextlib.closing(client) as connection:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_BYTES).decode("utf-8", "replace")
