"""The error form of the protocol: an object with `error`, and the members of the problem."""

from __future__ import annotations

from typing import Any

from tidegate.service.api.bodies import as_json
from tidegate.service.api.dialects.v2.request import NO_SHARED_MEMORY
from tidegate.service.api.problems import Json

# An image that cannot be decoded is an invalid argument, as for Triton.
_STATUS = {"undecodable-image": 400, "unsupported-image-type": 400}


def error_form(problem: dict[str, Any]) -> tuple[int, bytes]:
    """Return the status and the JSON body for a problem document.

    Its Content-Type is exactly application/json: KServe's client compares the text.
    """
    status = _STATUS.get(problem["code"], problem["status"])
    return status, as_json({"error": error_text(problem), **problem, "status": status})


def error_text(problem: dict[str, Any]) -> str:
    """Return a problem in one line: the image that it is about, the code and the detail."""
    where = f"image {problem['image']}: " if "image" in problem else ""
    return f"{where}{problem['code']}: {problem['detail']}"


async def no_shared_memory() -> Json:
    """Answer a request about shared memory, which no extension of ours offers."""
    return Json(as_json({"error": NO_SHARED_MEMORY}), 400)
