"""What OpenAPI says about the failures of routes that receive images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF

Responses = dict[int | str, dict[str, Any]]

# By status. Refusals for want of access are added to all routes, if there are keys
# (`openapi_access.py`).
CLASSIFYING = {
    400: "bad-request",
    404: "not-found: no such model, version or alias",
    408: "upload-timeout",
    413: "upload-too-large · image-too-large",
    415: "unsupported-image-type · unsupported-encoding",
    422: "undecodable-image · out-of-distribution",
    429: "quota-exceeded",
    500: "engine-failed · internal-error",
    503: "overloaded · draining · not-ready, with Retry-After",
    504: "deadline-missed",
}


def as_problems(failures: Mapping[int, str]) -> Responses:
    """Return the responses of a route whose failures are problem documents."""
    return in_form(failures, {MEDIA_TYPE: {"schema": PROBLEM_REF}})


def in_form(failures: Mapping[int, str], content: dict[str, Any]) -> Responses:
    """Return the responses of a route whose failures have this content."""
    return {
        status: {"description": codes, "content": content} for status, codes in failures.items()
    }
