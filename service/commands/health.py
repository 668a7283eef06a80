"""`tidegate health`. It does not load the service, as a health check runs every few seconds."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import sys
import time

from tidegate.service.addresses import hosts_to_probe
from tidegate.service.commands import Commands

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
    port = names.get("TIDEGATE_PORT") or "8000"
    end = time.monotonic() + _TIMEOUT_S
    failed = ""
    try:
        for host in hosts_to_probe(names.get("TIDEGATE_HOST") or "127.0.0.1"):
            try:
                status, text = _probe(host, int(port), max(0.1, end - time.monotonic()))
            except (OSError, http.client.HTTPException) as error:
                failed = failed or f"{error}"
            else:
                print(text)
                return 0 if status == http.HTTPStatus.OK else 1
    except ValueError as error:
        failed = f"{error}"
    print(f"tidegate: not reachable: {failed}", file=sys.stderr)
    return 1


def _probe(host: str, port: int, timeout_s: float) -> tuple[int, str]:
    """Return status and body of `/readyz`, whatever the status is."""
    client = http.client.HTTPConnection(host, port, timeout=timeout_s)
    with contextlib.closing(client) as connection:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(_MOST_BYTES).decode("utf-8", "replace")
