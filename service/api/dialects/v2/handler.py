"""Answers inference requests over HTTP."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import failed_image
from tidegate.service.api.dialects.v2.inference import OodAction, find_target, refusal, uploads
from tidegate.service.api.dialects.v2.request import header_length, parse_infer
from tidegate.service.api.dialects.v2.response import render, tensors
from tidegate.service.api.dialects.v2.usual import render_usual
from tidegate.service.api.intake import ImageFailed, Intake
from tidegate.service.api.limits import client_of
from tidegate.service.api.problems import respond

_LENGTH = b"inference-header-content-length"


class InferHandler:
    """Handles `infer`. Used on the event loop."""

    def __init__(self, intake: Intake, ood_action: OodAction) -> None:
        self._intake = intake
        self._ood_action = ood_action

    async def infer(self, request: Request, name: str, version: str = "") -> Response:
        """Handle POST …/infer of a model or of a version."""
        context, intake = RequestContext.of(request.scope), self._intake
        target = find_target(intake, context, name, version)
        client = client_of(request.scope)
        json_bytes = header_length([v for n, v in request.scope["headers"] if n == _LENGTH])
        with intake.receiving(client, target.chosen) as reservation:
            body = await intake.reader.body(request, context, reservation)
            received = time.monotonic()
            asked = await parse_infer(body, json_bytes, target.spec, reservation)
            del body
            images = uploads(intake, asked, received, client, context)
            try:
                with intake.until_disconnect(request):
                    results = await intake.classify_all(target.chosen, images, context.request_id)
            except ImageFailed as failed:
                return failed_image(failed, context)
        problem = refusal(results, asked, target, self._ood_action, context)
        if problem is not None:
            return respond(problem, context)
        usual = render_usual(asked, target.model, target.version, results)
        if usual is not None:
            return usual
        outputs = tensors(results, asked, target.chosen.served.bundle)
        return render(asked, target.model.given, target.version, outputs)
