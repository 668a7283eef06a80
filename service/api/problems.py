"""RFC 9457 problem details."""

from __future__ import annotations

import asyncio
import logging
import math
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from tidegate.service import errors
from tidegate.service.api.bodies import as_json, model_fields, ood_body
from tidegate.service.api.connection import ClientGone
from tidegate.service.api.content_encoding import ACCEPTED
from tidegate.service.api.context import RequestContext
from tidegate.service.api.methods import allow
from tidegate.service.bundle.store import Bundle
from tidegate.service.pipeline import Classification
from tidegate.service.problem_codes import TABLE

log = logging.getLogger(__name__)

TYPE_PREFIX = "urn:tidegate:problem:"
MEDIA_TYPE = "application/problem+json"
PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}  # in OpenAPI because of BatchItem

OUT_OF_DISTRIBUTION = (422, "out-of-distribution", "Image is out of distribution")
_BY_STATUS = {
    404: ("not-found", "Not found", "There is no route {} {}."),
    405: ("method-not-allowed", "Method not allowed", "{} is not allowed on {}; see Allow."),
}
_OTHER = ("http-error", "HTTP error", "{} {} failed.")
_METHOD_NOT_ALLOWED = 405
_SHOWN = 100  # characters of a path
_CLIENT_CLOSED = 499  # only for logs and metrics: the client has disconnected


class Json(Response):
    """A response with an encoded JSON body; cheaper to create than Starlette's JSONResponse."""

    def __init__(
        self, body: bytes, status: int = 200, *, content_type: bytes = b"application/json"
    ) -> None:
        self.body, self.status_code, self.background = body, status, None
        self.raw_headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode("ascii")),
        ]


ProblemBody = dict[str, Any]  # the fields of schemas.Problem without those that are None


def problem_of(error: errors.TidegateError, context: RequestContext) -> ProblemBody:
    """Return the problem document of an expected error."""
    status, code, title = TABLE[type(error)]
    if error.shed_reason:
        context.log["shed"] = error.shed_reason
    return make_problem(status, code, title, str(error), context)


def make_problem(
    status: int, code: str, title: str, detail: str, context: RequestContext, **more: Any
) -> ProblemBody:
    """Return a problem document; `more` are extension members."""
    return {
        "type": TYPE_PREFIX + code,
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": context.request_id,
        **more,
    }


def rejection(result: Classification, bundle: Bundle, context: RequestContext) -> ProblemBody:
    """Return the problem document of a rejected image; it has no predictions."""
    p_value, alpha = result.verdict.p_value, bundle.gate.alpha_reject
    return make_problem(
        *OUT_OF_DISTRIBUTION,
        f"p = {p_value:.4g} is at most alpha_reject = {alpha:g}.",
        context,
        model=model_fields(bundle),
        ood=ood_body(result, bundle),
    )


def respond(
    problem: ProblemBody, context: RequestContext, retry_after_s: float | None = None
) -> Json:
    """Return a problem as a response, with Retry-After in whole seconds.

    It is problem+json, unless the route's protocol has an error form of its own.
    """
    if context.error_form is not None:
        status, body = context.error_form(problem)
        response = Json(body, status)
    else:
        body = as_json(problem)
        response = Json(body, problem["status"], content_type=MEDIA_TYPE.encode("ascii"))
    if retry_after_s is not None:
        wait = str(math.ceil(retry_after_s)).encode("ascii")
        response.raw_headers.append((b"retry-after", wait))
    if response.status_code == HTTPStatus.UNAUTHORIZED:
        response.raw_headers.append((b"www-authenticate", b"Bearer"))
    return response


def response_to(error: Exception, context: RequestContext) -> Response:
    """Return the response to an error that the service raises deliberately, or to ClientGone."""
    if isinstance(error, errors.TidegateError):
        problem = problem_of(error, context)
        context.log["code"] = problem["code"]
        response = respond(problem, context, error.retry_after_s)
        if isinstance(error, errors.UnsupportedEncoding):
            response.headers["Accept-Encoding"] = ACCEPTED  # RFC 9110, 15.5.16
        return response
    context.log["shed"] = "client-gone"
    return Response(status_code=_CLIENT_CLOSED)  # ClientGone


def response_to_unexpected_error(error: BaseException, context: RequestContext) -> Response:
    """Return the response to a bug, which is logged, or to cancellation at the end of the drain."""
    if isinstance(error, asyncio.CancelledError):
        cut = errors.Draining("The service shut down before this request was answered.")
        return response_to(cut, context)
    context.log["code"] = "internal-error"
    return respond(unexpected_problem(error, context), context)


def unexpected_problem(error: BaseException, context: RequestContext) -> ProblemBody:
    """Log a bug, and return the problem document for it."""
    log.error("unexpected error", exc_info=error, extra={"request_id": context.request_id})
    detail = "Unexpected error. The log has the details under this request_id."
    return make_problem(500, "internal-error", "Internal error", detail, context)


def install(app: FastAPI) -> None:
    """Return a problem document for every error of `app`'s routes."""
    app.add_exception_handler(errors.TidegateError, _expected)
    app.add_exception_handler(ClientGone, _expected)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)


async def _expected(request: Request, error: Exception) -> Response:
    return response_to(error, RequestContext.of(request.scope))


async def _bug(request: Request, error: Exception) -> Response:
    return response_to_unexpected_error(error, RequestContext.of(request.scope))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"])
    invalid = errors.BadRequest(f"{where}: {first['msg']}.")
    return response_to(invalid, RequestContext.of(request.scope))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    context = RequestContext.of(request.scope)
    code, title, detail = _BY_STATUS.get(error.status_code, _OTHER)
    detail = detail.format(request.method, _shown(request.scope["path"]))
    context.log["code"] = code
    response = respond(make_problem(error.status_code, code, title, detail, context), context)
    if error.status_code == _METHOD_NOT_ALLOWED:
        response.headers["Allow"] = allow(request.app, request.scope["path"])
    return response


def _shown(path: str) -> str:
    """Return the start of a client's text as ASCII without control characters."""
    return quote(path[:_SHOWN], safe="/:@!$&'()*+,;=~{}")
