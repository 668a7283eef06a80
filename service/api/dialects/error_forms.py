"""The bodies of failures, as the clients of each protocol read them."""

from __future__ import annotations

from typing import Any

from tidegate.service.api.bodies import as_json


def error_text(problem: dict[str, Any]) -> tuple[int, bytes]:
    """`{"error": "code: detail"}`, with the other members of the problem."""
    error = f"{problem['code']}: {problem['detail']}"
    return problem["status"], as_json({"error": error, **problem})


def plain_problem(problem: dict[str, Any]) -> tuple[int, bytes]:
    """The problem document itself, as application/json."""
    return problem["status"], as_json(problem)


def torchserve_error(problem: dict[str, Any]) -> tuple[int, bytes]:
    """`{"code": 400, "type": "bad-request", "message": "…"}`."""
    body = {
        "code": problem["status"],
        "type": problem["code"],
        "message": problem["detail"],
        "request_id": problem["request_id"],
    }
    return problem["status"], as_json(body)
