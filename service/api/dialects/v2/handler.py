"""Answers inference requests over HTTP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response

from tidegate.service.api.context import RequestContext
from tidegate.service.api.dialects.base import failed_image
from tidegate.service.api.dialects.v2.model import ModelName, model_name
from tidegate.service.api.dialects.v2.request import (
    Infer,
    InputSpec,
    header_length,
    parse_infer,
)
from tidegate.service.api.dialects.v2.response import is_rejected, render, tensors
from tidegate.service.api.intake import ImageFailed, Intake, log_outcomes
from tidegate.service.api.limits import client_of
from tidegate.service.api.problems import rejection, respond
from tidegate.service.api.schemas import model_ref
from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import Choice
from tidegate.service.pipeline import Classification, Upload

_ID_LOGGED = 128  # characters


class InferHandler:
    """Handles `infer`. Used on the event loop."""

    def __init__(self, intake: Intake, ood_action: Literal["reject", "flag"]) -> None:
        self._intake = intake
        self._ood_action = ood_action

    async def infer(self, request: Request, name: str, version: str = "") -> Response:
        """Handle POST …/infer of a model or of a version."""
        context, intake = RequestContext.of(request.scope), self._intake
        model = model_name(name, intake.service.catalog)
        chosen = intake.choose(context, model.model, version)
        client = client_of(request.scope)
        json_bytes = header_length(
            [v for n, v in request.scope["headers"] if n == b"inference-header-content-length"]
        )
        spec = input_spec(model, chosen.served.bundle, intake.limits.max_files)
        with intake.receiving(client, chosen) as reservation:
            body = await intake.reader.body(request, context, reservation)
            received = time.monotonic()
            asked = await parse_infer(body, json_bytes, spec, reservation)
            del body
            if asked.id is not None:
                context.log["id"] = asked.id[:_ID_LOGGED]
            intake.spend(client, asked.count)
            deadline = received + intake.timeout_s(context, asked.timeout_s)
            with intake.until_disconnect(request):
                try:
                    results = await intake.classify_all(
                        chosen, uploads(asked, received, deadline, client), context.request_id
                    )
                except ImageFailed as failed:
                    return failed_image(failed, context)
        log_outcomes(context, results)
        return self._answer(asked, model, chosen, results, context)

    def _answer(
        self,
        asked: Infer,
        model: ModelName,
        chosen: Choice,
        results: Sequence[Classification],
        context: RequestContext,
    ) -> Response:
        bundle = chosen.served.bundle
        if refuses(results, asked.ood_action or self._ood_action):
            problem = rejection(results[0], bundle, model_ref(bundle).model_dump(), context)
            return respond(problem, context)
        outputs = tensors(results, asked, bundle)
        return render(asked, model.given, chosen.served.version, outputs)


def input_spec(model: ModelName, bundle: Bundle, max_images: int) -> InputSpec:
    """Return what a request for a version must contain."""
    task, preprocess = bundle.manifest.task, bundle.manifest.preprocess
    shape = task.height, task.width, 3
    return InputSpec(model, shape, preprocess.channel_order == "bgr", max_images)


def uploads(asked: Infer, received: float, deadline: float, client: str) -> list[Upload]:
    """Return the images of a request for the pipeline."""
    priority, top_k = asked.batching_priority, asked.classes
    encoded = [Upload(image, received, deadline, top_k, priority, client) for image in asked.images]
    decoded = [
        Upload(b"", received, deadline, top_k, priority, client, pixels) for pixels in asked.pixels
    ]
    return encoded + decoded


def refuses(results: Sequence[Classification], ood_action: str) -> bool:
    """Return whether a request is answered with a problem: its only image is rejected."""
    return len(results) == 1 and is_rejected(results[0]) and ood_action == "reject"
