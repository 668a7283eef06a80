"""Errors to RFC 9457 problem details: the one table from class to status and code."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from tidegate.service import errors
from tidegate.service.api.context import RequestContext
from tidegate.service.api.methods import allow
from tidegate.service.api.schemas import as_json

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:tidegate:problem:"
MEDIA_TYPE = "application/problem+json"
PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}  # BatchItem brings it into OpenAPI

TABLE: dict[type[errors.TidegateError], tuple[int, str, str]] = {
    errors.BadRequest: (400, "bad-request", "The request is malformed"),
    errors.NotFound: (404, "not-found", "Not found"),
    errors.UploadTimeout: (408, "upload-timeout", "The upload took too long"),
    errors.UploadTooLarge: (413, "upload-too-large", "The upload has too many bytes"),
    errors.ImageTooLarge: (413, "image-too-large", "The image has too many pixels"),
    errors.UnsupportedImageType: (415, "unsupported-image-type", "Not an image of an allowed type"),
    errors.UndecodableImage: (422, "undecodable-image", "The image cannot be decoded"),
    errors.QuotaExceeded: (429, "quota-exceeded", "This client sends too much"),
    errors.Overloaded: (503, "overloaded", "Too busy to answer in time"),
    errors.Draining: (503, "draining", "The service is shutting down"),
    errors.NotReady: (503, "not-ready", "The service is warming up"),
    errors.DeadlineMissed: (504, "deadline-missed", "The deadline cannot be met"),
    errors.EngineFailed: (500, "engine-failed", "The engine failed"),
}
OUT_OF_DISTRIBUTION = (422, "out-of-distribution", "Image is out of distribution")
_BY_STATUS = {
    404: ("not-found", "Not found", "There is no route {} {}."),
    405: ("method-not-allowed", "Method not allowed", "{} is not a method of {}; see Allow."),
}
_OTHER = ("http-error", "HTTP error", "{} {} failed.")
_METHOD_NOT_ALLOWED = 405
_SHOWN = 100  # characters of a path
_CLIENT_CLOSED = 499  # the client has gone; nobody reads this, logs and metrics do


class Json(Response):
    """A JSON body that is ready: no more of a response is made than is sent."""

    def __init__(
        self, body: bytes, status: int = 200, *, content_type: bytes = b"application/json"
    ) -> None:
        self.body, self.status_code, self.background = body, status, None
        self.raw_headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode("ascii")),
        ]


class ClientGone(Exception):
    """The client disconnected before its answer."""


ProblemBody = dict[str, Any]  # with the fields of schemas.Problem, less those that are None


def problem_of(error: errors.TidegateError, context: RequestContext) -> ProblemBody:
    """Return the problem document of an expected error."""
    status, code, title = TABLE[type(error)]
    return make_problem(status, code, title, str(error), context)


def make_problem(
    status: int, code: str, title: str, detail: str, context: RequestContext, **more: Any
) -> ProblemBody:
    """Return a problem document; `more` are the extension members of its code."""
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": context.request_id,
        **more,
    }


def respond(problem: ProblemBody, retry_after_s: float | None = None) -> Json:
    """Return a problem as a response, with Retry-After in whole seconds."""
    response = Json(as_json(problem), problem["status"], content_type=MEDIA_TYPE.encode("ascii"))
    if retry_after_s is not None:
        wait = str(math.ceil(retry_after_s)).encode("ascii")
        response.raw_headers.append((b"retry-after", wait))
    return response


def response_to(error: Exception, context: RequestContext) -> Response:
    """Return the answer to an error the service raises on purpose."""
    if isinstance(error, errors.TidegateError):
        problem = problem_of(error, context)
        context.log["code"] = problem["code"]
        return respond(problem, error.retry_after_s)
    return Response(status_code=_CLIENT_CLOSED)  # ClientGone


def response_to_unexpected_error(error: BaseException, context: RequestContext) -> Response:
    """Return the answer to a bug, which is logged, or to being cut off at the drain's end."""
    if isinstance(error, asyncio.CancelledError):
        cut = errors.Draining("The service shut down before this request was answered.")
        return response_to(cut, context)
    log.error("unexpected error", exc_info=error, extra={"request_id": context.request_id})
    detail = "An unexpected error; it is in the log under this request_id."
    context.log["code"] = "internal-error"
    return respond(make_problem(500, "internal-error", "Internal error", detail, context))


def install(app: FastAPI) -> None:
    """Answer every error of `app`'s routes with a problem document."""
    app.add_exception_handler(errors.TidegateError, _expected)
    app.add_exception_handler(ClientGone, _expected)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


async def _expected(request: Request, error: Exception) -> Response:
    return response_to(error, RequestContext.of(request.scope))


async def _bug(request: Request, error: Exception) -> Response:
    return response_to_unexpected_error(error, RequestContext.of(request.scope))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    context = RequestContext.of(request.scope)
    code, title, detail = _BY_STATUS.get(error.status_code, _OTHER)
    told = detail.format(request.method, _shown(request.scope["path"]))
    context.log["code"] = code
    response = respond(make_problem(error.status_code, code, title, told, context))
    if error.status_code == _METHOD_NOT_ALLOWED:
        response.headers["Allow"] = allow(request.app, request.scope["path"])
    return response


def _shown(path: str) -> str:
    """Return a client's text as ASCII without control characters, and not too much of it."""
    return quote(path[:_SHOWN], safe="/:@!$&'()*+,;=~{}")
