"""POST /feedback: report the true class of an image."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError

from tidegate.service.api.audit import Audit
from tidegate.service.api.body import BodyLimits, read_body
from tidegate.service.api.context import RequestContext
from tidegate.service.api.limits import HttpLimits, client_of
from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF
from tidegate.service.api.schemas import Body
from tidegate.service.api.uploads import ByteBudget
from tidegate.service.errors import BadRequest, NotFound
from tidegate.service.lifecycle import Service

MAX_BYTES = 4096  # of the JSON; an id of 160 escaped characters takes 960
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}


class Feedback(Body):
    """The true class of a recently answered image."""

    request_id: str = Field(
        min_length=1,
        max_length=160,
        pattern=r"^[A-Za-z0-9._:/+=@-]+$",
        description="request_id of the answer; append `.0`, `.1` … for the images of a batch",
    )
    class_id: int = Field(ge=0, strict=True)


class FeedbackTaken(Body):
    """The class that was predicted for the image, and whether it was correct."""

    request_id: str
    predicted_class_id: int
    correct: bool


def router(
    service: Service, limits: HttpLimits, budget: ByteBudget, audit: Audit | None = None
) -> APIRouter:
    """Return the route that accepts feedback."""
    routes = APIRouter(tags=["feedback"])
    body_limits = BodyLimits(MAX_BYTES, limits.upload_timeout_s)

    @routes.post(
        "/feedback",
        summary="Report the true class of an image",
        responses={
            400: {"description": "bad-request", **_PROBLEM},
            404: {"description": "not-found: not a recent answer", **_PROBLEM},
            408: {"description": "upload-timeout", **_PROBLEM},
            413: {"description": f"upload-too-large: more than {MAX_BYTES} bytes", **_PROBLEM},
            503: {"description": "overloaded · draining · not-ready", **_PROBLEM},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": Feedback.model_json_schema()}},
            }
        },
    )
    async def feedback(request: Request) -> FeedbackTaken:
        """Each image counts once. Only the last 10,000 answers are kept."""
        service.catalog  # noqa: B018 - raises NotReady or Draining
        _check_type(RequestContext.of(request.scope).content_type)
        with budget.reserve(client_of(request.scope)) as reservation:
            sent = parse(await read_body(request, reservation, body_limits))
        classes = service.answers.classes_of(sent.request_id)
        if classes is not None and sent.class_id >= classes:
            raise BadRequest(f"class_id must be less than {classes}, the number of classes.")
        found = service.answers.label(sent.request_id, sent.class_id)
        if found is None:
            raise NotFound("No recent answer has this request_id.")
        answered, is_new = found
        correct = answered.class_id == sent.class_id
        if is_new:
            service.observe_feedback(answered, correct=correct)
            if audit is not None:
                audit.reported(answered, sent.class_id)
        return FeedbackTaken(
            request_id=sent.request_id, predicted_class_id=answered.class_id, correct=correct
        )

    return routes


def parse(body: bytes) -> Feedback:
    """Return the feedback in a request body.

    Raises BadRequest if the body is not a JSON object, or if an object repeats a name.
    """
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant
        )
    except RecursionError:
        raise BadRequest("The JSON is nested too deeply.") from None
    except UnicodeDecodeError:
        raise BadRequest("The body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    if not isinstance(document, dict):
        raise BadRequest("The JSON must be an object.")
    try:
        return Feedback.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = next((f"{name}: " for name in first["loc"] if name in Feedback.model_fields), "")
        raise BadRequest(f"{field}{first['msg']}.") from None


def _check_type(content_type: str) -> None:
    """Require JSON: a web page of another origin cannot send it without a CORS preflight."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest("Send JSON, with Content-Type: application/json.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise BadRequest("An object in the JSON repeats a name.")
    return fields


def _no_constant(name: str) -> None:
    raise BadRequest(f"{name} is not valid JSON.")
