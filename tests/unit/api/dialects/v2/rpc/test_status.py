from __future__ import annotations

import grpc
import pytest

from tidegate.service.api import problems
from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.v2.rpc.peers import peer_of
from tidegate.service.api.dialects.v2.rpc.status import retry_metadata, status_of
from tidegate.service.errors import (
    BadRequest,
    DeadlineMissed,
    Draining,
    EngineFailed,
    NotFound,
    NotReady,
    Overloaded,
    QuotaExceeded,
    TidegateError,
    UndecodableImage,
    UploadTooLarge,
)

Status = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadRequest("x"), Status.INVALID_ARGUMENT),
        (UndecodableImage("x"), Status.INVALID_ARGUMENT),
        (NotFound("x"), Status.NOT_FOUND),
        (NotReady("x"), Status.UNAVAILABLE),
        (Draining("x"), Status.UNAVAILABLE),
        (Overloaded("x", 1), Status.UNAVAILABLE),
        (DeadlineMissed("x"), Status.DEADLINE_EXCEEDED),
        (QuotaExceeded("x", 1), Status.RESOURCE_EXHAUSTED),
        (UploadTooLarge("x"), Status.RESOURCE_EXHAUSTED),
        (EngineFailed("x"), Status.INTERNAL),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_each_error_has_its_status(error: TidegateError, status: grpc.StatusCode) -> None:
    assert status_of(problems.problem_of(error, RequestContext("r"))) is status


def test_a_rejected_image_is_a_failed_precondition() -> None:
    problem = problems.make_problem(*problems.OUT_OF_DISTRIBUTION, "p = 0", RequestContext("r"))

    assert status_of(problem) is Status.FAILED_PRECONDITION


def test_the_pushback_is_in_milliseconds() -> None:
    assert retry_metadata("2") == (("grpc-retry-pushback-ms", "2000"),)
    assert retry_metadata(None) == ()


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:192.0.2.1:5000", ("192.0.2.1", 5000)),
        ("ipv6:%5B2001:db8::1%5D:5000", ("2001:db8::1", 5000)),
        ("ipv6:[::1]:5000", ("::1", 5000)),
        ("unix:/run/socket", None),
        ("", None),
    ],
)
def test_the_address_of_a_peer(peer: str, client: tuple[str, int] | None) -> None:
    assert peer_of(peer) == client
