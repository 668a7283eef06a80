"""POST /classify and /classify/batch: from a request to a classification and back."""

from __future__ import annotations

import time
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from tidegate.service.api.bodies import as_json, classify_body
from tidegate.service.api.context import RequestContext
from tidegate.service.api.intake import Intake, Outcome, log_outcomes
from tidegate.service.api.limits import client_of
from tidegate.service.api.multipart import is_multipart
from tidegate.service.api.parameters import USUAL, Wanted, parse_wanted
from tidegate.service.api.problems import (
    Json,
    problem_of,
    rejection,
    respond,
    unexpected_problem,
)
from tidegate.service.bundle.store import Bundle
from tidegate.service.errors import BadRequest, TidegateError
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.types import Priority


class ClassifyHandler:
    """Handles the classify routes."""

    def __init__(self, intake: Intake, ood_action: Literal["reject", "flag"]) -> None:
        self._intake = intake
        self.limits = intake.limits
        self._flag = ood_action == "flag"

    async def single(self, request: Request, name: str = "", version: str = "") -> Response:
        """Handle POST /classify and the same of one model or version."""
        context, intake = RequestContext.of(request.scope), self._intake
        chosen = intake.choose(context, name, version, single=True)
        bundle = chosen.served.bundle
        client = client_of(request.scope)
        wanted, timeout_s = self._parameters(request, context)  # invalid ones cost no quota
        intake.spend(client, 1)
        with intake.receiving(client, chosen) as reservation:
            image = await intake.reader.image(request, context, reservation)
            received = time.monotonic()
            upload = _upload(image, received, timeout_s, wanted, Priority.INTERACTIVE, client)
            with intake.until_disconnect(request):
                result = await intake.classify(chosen, upload, context.request_id)
        log_outcomes(context, [result])
        answer = self._body(result, bundle, wanted, context)
        return respond(answer, context) if _is_problem(answer) else Json(as_json(answer))

    async def batch(self, request: Request, name: str = "", version: str = "") -> Response:
        """Handle POST /classify/batch and the same of one model or version."""
        context, intake = RequestContext.of(request.scope), self._intake
        chosen = intake.choose(context, name, version)
        wanted, timeout_s = self._parameters(request, context)
        client = client_of(request.scope)
        if not is_multipart(context.content_type):
            raise BadRequest('Send multipart/form-data with one part "files" per image.')
        with intake.receiving(client, chosen) as reservation:
            most = self.limits.max_files
            images = await intake.reader.files(request, context, reservation, "files", most)
            received = time.monotonic()
            intake.spend(client, len(images))
            uploads = [
                _upload(image, received, timeout_s, wanted, Priority.BULK, client)
                for image in images
            ]
            del images
            with intake.until_disconnect(request):
                outcomes = await intake.classify_each(chosen, uploads, context.request_id)
        bundle = chosen.served.bundle
        items = [self._item(outcome, bundle, wanted, context) for outcome in outcomes]
        context.log["statuses"] = [item["status"] for item in items]
        return Json(as_json({"request_id": context.request_id, "results": items}))

    def _parameters(self, request: Request, context: RequestContext) -> tuple[Wanted, float]:
        """Return what the answer shall contain and the request's timeout in seconds."""
        query = request.scope["query_string"]
        wanted = parse_wanted(query) if query else USUAL
        return wanted, self._intake.timeout_s(context)

    def _item(
        self, outcome: Outcome, bundle: Bundle, wanted: Wanted, context: RequestContext
    ) -> dict[str, Any]:
        """Return the BatchItem of one image, with its problem if it failed."""
        if isinstance(outcome, TidegateError):
            answer = problem_of(outcome, context)
        elif isinstance(outcome, Exception):  # a bug: the other images are answered
            answer = unexpected_problem(outcome, context)
        else:
            answer = self._body(outcome, bundle, wanted, context)
        if _is_problem(answer):
            return {"status": answer["status"], "problem": answer}
        return {"status": 200, "result": answer}

    def _body(
        self, result: Classification, bundle: Bundle, wanted: Wanted, context: RequestContext
    ) -> dict[str, Any]:
        """Return the answer, or a problem without predictions if the image is rejected."""
        if result.verdict.decision == "reject" and not self._flag:
            return rejection(result, bundle, context)
        return classify_body(result, bundle, context.request_id, wanted)


def _upload(
    image: bytes,
    received: float,
    timeout_s: float,
    wanted: Wanted,
    priority: Priority,
    client: str,
) -> Upload:
    deadline, features = received + timeout_s, wanted.features != ""
    return Upload(image, received, deadline, wanted.top_k, priority, client, features=features)


def _is_problem(answer: dict[str, Any]) -> bool:
    return "code" in answer  # every problem has one, and no answer does
