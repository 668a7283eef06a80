"""From problems to the statuses of gRPC."""

from __future__ import annotations

import math
from typing import Any

import grpc

from tidegate.service.api.problems import OUT_OF_DISTRIBUTION, ProblemBody

_BY_CODE = {
    OUT_OF_DISTRIBUTION[1]: grpc.StatusCode.FAILED_PRECONDITION,
    "upload-too-large": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_BY_STATUS = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_INTERNAL_FROM = 500
_PUSHBACK = "grpc-retry-pushback-ms"


class Refused(Exception):
    """A request that is answered with this problem document."""

    def __init__(self, problem: ProblemBody) -> None:
        super().__init__(problem["detail"])
        self.problem = problem


def status_of(problem: dict[str, Any]) -> grpc.StatusCode:
    """Return the status for a problem document."""
    found = _BY_CODE.get(problem["code"]) or _BY_STATUS.get(problem["status"])
    if found is None:
        is_internal = problem["status"] >= _INTERNAL_FROM
        found = grpc.StatusCode.INTERNAL if is_internal else grpc.StatusCode.INVALID_ARGUMENT
    return found


def retry_metadata(retry_after_s: float | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that tells a client when to try again, in milliseconds."""
    if retry_after_s is None:
        return ()
    return ((_PUSHBACK, str(math.ceil(1000 * retry_after_s))),)
