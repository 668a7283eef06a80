"""How many connections the file descriptors of the process are for."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

_PER_CLIENT = 0.5  # of the descriptors
_IN_ALL = 0.9  # the others are for files, and for the threads of libraries
_RPC = 0.3  # of the descriptors, if gRPC is served; they are not in _IN_ALL then
_NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of connections, so that no client, and no proxy, uses every descriptor."""

    per_client: int
    in_all: float = math.inf  # of HTTP
    rpc: int = _NO_LIMIT  # of gRPC, all addresses together

    @classmethod
    def of(cls, per_client: int, *, with_rpc: bool) -> ConnectionLimits:
        """Return the limits of this process; `per_client` is what the operator allows."""
        if sys.platform == "win32":
            return cls(per_client)
        import resource  # noqa: PLC0415 - not on Windows

        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            return cls(per_client)
        rpc = _RPC if with_rpc else 0.0
        return cls(
            max(1, min(per_client, round(descriptors * _PER_CLIENT))),
            max(1, round(descriptors * (_IN_ALL - rpc))),
            max(1, round(descriptors * rpc)),
        )


def use_all_descriptors() -> None:
    """Raise the soft limit on descriptors to the hard one, for this process and its children."""
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
