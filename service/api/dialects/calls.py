"""Calls with one or several images, for the protocols that answer each image by itself."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from tidegate.service.api.context import RequestContext
from tidegate.service.api.intake import Intake, Outcome, log_outcomes
from tidegate.service.api.limits import client_of
from tidegate.service.api.parameters import MAX_TOP_K, TOP_K
from tidegate.service.api.problems import problem_of, unexpected_problem
from tidegate.service.api.uploads import Reservation
from tidegate.service.catalog import Choice
from tidegate.service.errors import BadRequest, ServiceError, TidegateError
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.types import Priority


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks for.

    An image may be the error with which its text could not be read. The only image of a single
    call is answered by itself: its error is the call's.
    """

    images: Sequence[bytes | BadRequest]
    top_k: int = TOP_K
    timeout_s: float | None = None
    is_single: bool = False


Read = Callable[[Request, RequestContext, Reservation], Awaitable[Call]]


def check_top_k(top_k: int | None) -> int:
    """Return the number of classes, the default for None. Raises BadRequest."""
    if top_k is None:
        return TOP_K
    if not 1 <= top_k <= MAX_TOP_K:
        raise BadRequest(f"top_k must be a whole number from 1 to {MAX_TOP_K}.")
    return top_k


async def answer_single(
    intake: Intake, request: Request, chosen: Choice, read: Read
) -> Classification:
    """Classify the image of a single call. Raises what `Intake.classify` raises."""
    _, [outcome] = await answer(intake, request, chosen, read)
    assert isinstance(outcome, Classification)  # noqa: S101 - errors of a single call are raised
    return outcome


async def answer(
    intake: Intake, request: Request, chosen: Choice, read: Read
) -> tuple[Call, list[Outcome]]:
    """Classify the images of a call; the error of one of several does not affect the others.

    If all of several fail because the service cannot answer now, the first of these errors is
    raised, so that the client tries again.
    """
    context, client = RequestContext.of(request.scope), client_of(request.scope)
    with intake.receiving(client, chosen) as reservation:
        call = await read(request, context, reservation)
        _check_count(len(call.images), intake.limits.max_files)
        uploads = _uploads(call, client, intake, context)
        with intake.until_disconnect(request):
            if call.is_single:
                answered: list[Outcome] = [
                    await intake.classify(chosen, uploads[0], context.request_id)
                ]
            else:
                answered = await intake.classify_each(chosen, uploads, context.request_id)
    left = iter(answered)
    outcomes = [one if isinstance(one, BadRequest) else next(left) for one in call.images]
    log_outcomes(context, outcomes)
    if all(isinstance(outcome, ServiceError) for outcome in outcomes):
        raise next(outcome for outcome in outcomes if isinstance(outcome, ServiceError))
    return call, outcomes


def element(outcome: Outcome, context: RequestContext) -> dict[str, Any]:
    """Return what an image becomes in a list of predictions.

    A rejected one has no predictions, and a failed one has its problem as `error`.
    """
    if isinstance(outcome, TidegateError):
        return {"error": problem_of(outcome, context)}
    if isinstance(outcome, Exception):
        return {"error": unexpected_problem(outcome, context)}
    verdict = outcome.verdict
    shown = () if verdict.decision == "reject" else outcome.predictions
    return {
        "decision": verdict.decision,
        "p_value": verdict.p_value,
        "predictions": [
            {"class_id": p.class_id, "label": p.label, "probability": p.probability} for p in shown
        ],
    }


def _uploads(call: Call, client: str, intake: Intake, context: RequestContext) -> list[Upload]:
    """Count a call's images against the quota, and return those that could be read."""
    received = time.monotonic()
    intake.spend(client, len(call.images))
    deadline = received + intake.timeout_s(context, call.timeout_s)
    priority = Priority.INTERACTIVE if len(call.images) == 1 else Priority.BULK
    return [
        Upload(image, received, deadline, call.top_k, priority, client)
        for image in call.images
        if isinstance(image, bytes)
    ]


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise BadRequest(f"A request has 1 to {most} instances, not {count:,}.")
