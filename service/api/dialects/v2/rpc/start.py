"""Serve gRPC if a port is set. Its libraries are an extra, so they are imported only then."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp

from tidegate.service.api.dialects.base import Dialect, Parts
from tidegate.service.api.limits import HttpLimits
from tidegate.service.api.wire import Wire
from tidegate.service.errors import SettingsInvalid
from tidegate.service.lifecycle import Service

log = logging.getLogger(__name__)

Stop = Callable[[float], Awaitable[None]]  # waits this many seconds for calls in progress


def rpc_dialect(parts: Parts) -> Dialect:
    """Return the calls as a dialect. Raises SettingsInvalid if the extra is missing."""
    try:
        import grpc  # noqa: F401, PLC0415 - an extra

        from tidegate.service.api.dialects.v2.rpc import calls  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SettingsInvalid(
            f"TIDEGATE_GRPC_PORT needs the extra grpc, because there is no module {error.name}: "
            'pip install "tidegate[grpc]".'
        ) from error
    return calls.dialect(parts)


async def start_rpc(
    app: ASGIApp,
    service: Service,
    limits: HttpLimits,
    hosts: Sequence[str],
    port: int | None,
    wire: Wire,
    most_connections: int,
) -> Stop:
    """Serve gRPC on every address of `hosts`, and return what stops it.

    `wire` is the one of HTTP; `most_connections` is for all addresses. Does nothing without a port.
    Raises SettingsInvalid if an address cannot be listened on.
    """
    if port is None:
        return _nothing
    from tidegate.service.api.dialects.v2.rpc.server import RpcServer  # noqa: PLC0415 - an extra

    if not hosts:
        raise SettingsInvalid("TIDEGATE_GRPC_PORT needs an address, but TIDEGATE_HOST is none.")
    server = RpcServer(app, service, limits, wire, max(1, most_connections // len(hosts)))
    port = await server.start(hosts, port)
    for host in hosts:
        log.info("serving gRPC on %s:%d", f"[{host}]" if ":" in host else host, port)
    return server.stop


async def _nothing(timeout_s: float) -> None:
    """Stop a server that was not started."""
