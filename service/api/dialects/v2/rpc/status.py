"""From problems to the statuses of gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from tidegate.service.api.problems import OUT_OF_DISTRIBUTION

_BY_CODE = {
    OUT_OF_DISTRIBUTION[1]: grpc.StatusCode.FAILED_PRECONDITION,
    "upload-too-large": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_BY_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_INTERNAL_FROM = 500
_PUSHBACK = "grpc-retry-pushback-ms"


def status_of(problem: dict[str, Any]) -> grpc.StatusCode:
    """Return the status for a problem document."""
    found = _BY_CODE.get(problem["code"]) or _BY_STATUS.get(problem["status"])
    if found is None:
        is_internal = problem["status"] >= _INTERNAL_FROM
        found = grpc.StatusCode.INTERNAL if is_internal else grpc.StatusCode.INVALID_ARGUMENT
    return found


def retry_metadata(retry_after: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that tells a client when to try again; `retry_after` is in seconds."""
    return () if retry_after is None else ((_PUSHBACK, str(1000 * int(retry_after))),)
