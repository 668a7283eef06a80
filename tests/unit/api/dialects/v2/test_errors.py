from __future__ import annotations

import json

import pytest

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.v2.errors import error_form
from tidegate.service.api.problems import response_to
from tidegate.service.errors import (
    Overloaded,
    QuotaExceeded,
    TidegateError,
    UndecodableImage,
    UnsupportedEncoding,
)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (QuotaExceeded("At most 1 image per second.", 0.5), 429, "1"),
        (Overloaded("Queue too long.", 2), 503, "2"),
        (UndecodableImage("The image is truncated."), 400, None),
        (UnsupportedEncoding("br is not supported."), 415, None),
    ],
)
def test_an_error_is_one_text_beside_the_problem(
    error: TidegateError, status: int, retry_after: str | None
) -> None:
    response = response_to(error, RequestContext("r", error_form=error_form))

    body = json.loads(bytes(response.body))
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.headers.get("retry-after") == retry_after
    assert body["error"] == f"{body['code']}: {error}"
    assert (body["status"], body["request_id"]) == (status, "r")
