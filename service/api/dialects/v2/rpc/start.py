"""Start the gRPC server if a port is set. Its library is an extra, so it is imported only then."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from tidegate.service.addresses import split_hosts
from tidegate.service.api.dialects.base import Parts
from tidegate.service.errors import SettingsInvalid

log = logging.getLogger(__name__)

Stop = Callable[[float], Awaitable[None]]  # waits this many seconds for calls in progress


async def start_rpc(parts: Parts, hosts: str, port: int | None) -> Stop:
    """Serve gRPC on every address of `hosts`, and return what stops it.

    Does nothing without a port. Raises SettingsInvalid if the extra is missing or an address cannot
    be listened on.
    """
    if port is None:
        return _nothing
    try:
        from tidegate.service.api.dialects.v2.rpc.server import (  # noqa: PLC0415 - an extra
            RpcServer,
        )
    except ModuleNotFoundError as error:
        raise SettingsInvalid(
            f"TIDEGATE_GRPC_PORT needs the extra grpc, because there is no module {error.name}: "
            'pip install "tidegate[grpc]".'
        ) from error
    server = RpcServer(parts)
    names = split_hosts(hosts)
    port = await server.start(names, port)
    for host in names:
        log.info("serving gRPC on %s:%d", f"[{host}]" if ":" in host else host, port)
    return server.stop


async def _nothing(timeout_s: float) -> None:
    """Stop a server that was not started."""
