"""Amazon SageMaker: /ping, /invocations and /execution-parameters.

SageMaker passes on only its own headers, so parameters are in one of them, and so is what a caller
should know of the answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response

from tidegate.service.api.bodies import as_json
from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import Dialect, Parts, ShortCut
from tidegate.service.api.dialects.calls import Call, answer, check_top_k, element
from tidegate.service.api.dialects.descriptions import (
    IMAGE,
    answers,
    failures,
    json_content,
    takes,
)
from tidegate.service.api.dialects.error_forms import plain_problem
from tidegate.service.api.dialects.instances import (
    PREDICTIONS_SCHEMA,
    InstanceReader,
    body_schema,
    is_json_lines,
)
from tidegate.service.api.dialects.names import SAGEMAKER
from tidegate.service.api.dialects.whole_answer import respond_whole
from tidegate.service.api.intake import Outcome
from tidegate.service.api.parameters import parse_timeout_s
from tidegate.service.api.problems import PROBLEM_REF, Json, problem_of
from tidegate.service.api.readiness import is_ready
from tidegate.service.api.uploads import Reservation
from tidegate.service.errors import (
    BadRequest,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImageType,
    UploadTooLarge,
)

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_INFERENCE_ID = "X-Amzn-SageMaker-Inference-Id"
_MIB = 1 << 20
_PREDICT = "/invocations"
_OF_THE_INPUT = (
    BadRequest,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedImageType,
    UploadTooLarge,
)


@dataclass(frozen=True, slots=True)
class _Attributes:
    """The parameters in the header of custom attributes: `top_k=3;timeout_ms=500`."""

    top_k: int | None = None
    timeout_s: float | None = None
    ood_action: str | None = None

    @classmethod
    def parse(cls, text: str) -> _Attributes:
        """Parse the header; attributes that are not ours are ignored. Raises BadRequest."""
        pairs = (pair.partition("=") for pair in text.replace(",", ";").split(";"))
        given = {name.strip(): value.strip() for name, _, value in pairs}
        top_k, action = given.get("top_k"), given.get("ood_action")
        if top_k is not None and not (top_k.isascii() and top_k.isdigit() and len(top_k) < 6):
            raise BadRequest(f"top_k={top_k[:20]} in {ATTRIBUTES} is not a whole number.")
        if action not in (None, "reject", "flag"):
            raise BadRequest(f"ood_action in {ATTRIBUTES} is reject or flag.")
        return cls(
            None if top_k is None else check_top_k(int(top_k)),
            parse_timeout_s(given["timeout_ms"]) if "timeout_ms" in given else None,
            action,
        )

    def over(self, call: Call) -> Call:
        """Return a call with the parameters that are given here."""
        top_k = call.top_k if self.top_k is None else self.top_k
        timeout_s = call.timeout_s if self.timeout_s is None else self.timeout_s
        return replace(call, top_k=top_k, timeout_s=timeout_s)


class _Invocations:
    """Answers /invocations."""

    def __init__(self, parts: Parts) -> None:
        self._intake = parts.intake
        self._reader = InstanceReader(parts.intake)
        self._batch = parts.facts.sagemaker_batch
        self._flag = self._batch or parts.ood_action == "flag"

    async def invoke(self, request: Request) -> Response:
        """Handle POST: one raw image, or instances as JSON or lines of JSON."""
        context, intake = RequestContext.of(request.scope), self._intake
        context.use_request_id(request.headers.get(_INFERENCE_ID, ""))
        given = _Attributes.parse(request.headers.get(ATTRIBUTES, ""))
        chosen = intake.choose(context)

        async def read(request: Request, context: RequestContext, reservation: Reservation) -> Call:
            return given.over(await self._reader.read_any(request, context, reservation))

        try:
            call, outcomes = await answer(intake, request, chosen, read)
        except _OF_THE_INPUT as error:
            if not self._batch:
                raise
            problem = problem_of(error, context)  # an error would fail the whole job
            return _answer({"predictions": [], "error": problem}, context, "error")
        if not call.is_single:
            accept = request.headers.get("accept", "*/*")
            wanted = context.content_type if accept == "*/*" else accept
            return _instances(outcomes, context, in_lines=is_json_lines(wanted))
        flag = self._flag if given.ood_action is None else given.ood_action == "flag"
        response, decision = respond_whole(outcomes[0], chosen, context, flag=flag)
        return _with_attributes(response, context, decision)


def _instances(outcomes: Sequence[Outcome], context: RequestContext, *, in_lines: bool) -> Response:
    elements = [element(outcome, context) for outcome in outcomes]
    decisions = ",".join(one.get("decision", "error") for one in elements)
    if not in_lines:
        return _answer({"predictions": elements}, context, decisions)
    lines = b"".join(as_json(one) + b"\n" for one in elements)
    response = Json(lines, content_type=b"application/jsonlines")
    return _with_attributes(response, context, decisions)


def dialect(parts: Parts) -> Dialect:
    """Return the dialect."""
    routes = APIRouter(tags=["SageMaker"])
    intake, invocations = parts.intake, _Invocations(parts)

    @routes.get("/ping", summary="Is the model ready?", response_class=Response)
    async def ping() -> Response:
        """The body is empty: 200 if ready, otherwise 503."""
        return Response(status_code=200 if is_ready(intake.service) else 503)

    routes.add_api_route(
        _PREDICT,
        invocations.invoke,
        methods=["POST"],
        summary="Classify one image, or instances",
        response_class=Response,
        responses=answers(
            json_content({"anyOf": [_CLASSIFY_REF, PREDICTIONS_SCHEMA]}), PROBLEM_REF
        ),
        openapi_extra=takes(
            IMAGE | json_content(body_schema(intake.limits.max_files)), _ATTRIBUTES_HEADER
        ),
    )

    @routes.get(
        "/execution-parameters",
        summary="How a batch transform should send",
        responses=failures(PROBLEM_REF, 503),
    )
    async def execution_parameters() -> Response:
        slots = intake.service.catalog.model("").stable.lane.engine.slots
        body = {
            "MaxConcurrentTransforms": 2 * slots,
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": math.ceil(intake.limits.max_upload_bytes / _MIB),
        }
        return Json(as_json(body))

    fast = ShortCut(_PREDICT, invocations.invoke)
    return Dialect(
        SAGEMAKER,
        ("/ping", _PREDICT, "/execution-parameters"),
        plain_problem,
        routes,
        (_PREDICT,),
        lambda path: fast if path == _PREDICT else None,
    )


_CLASSIFY_REF = {"$ref": "#/components/schemas/ClassifyBody"}
_ATTRIBUTES_HEADER = {
    "name": ATTRIBUTES,
    "in": "header",
    "description": "parameters, such as top_k=3;timeout_ms=500;ood_action=flag",
    "schema": {"type": "string", "maxLength": 1024},
}


def _answer(body: dict[str, Any], context: RequestContext, decision: str) -> Response:
    return _with_attributes(Json(as_json(body)), context, decision)


def _with_attributes(response: Json, context: RequestContext, decision: str) -> Response:
    value = f"request_id={context.request_id};decision={decision}"
    response.raw_headers.append((ATTRIBUTES.lower().encode("ascii"), value[:1024].encode("ascii")))
    return response
