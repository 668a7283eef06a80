"""POST /feedback: what an image really was."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field, NonNegativeInt
from starlette.exceptions import HTTPException

from service.api.problems import MEDIA_TYPE, PROBLEM_REF
from service.api.schemas import Body
from service.errors import BadRequest
from service.lifecycle import Service
from service.metrics import Metrics

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}


class Feedback(Body):
    """The true class of an image that was answered lately."""

    request_id: str = Field(
        min_length=1,
        max_length=160,
        description="of the answer; `.0`, `.1` … appended for the images of a batch",
    )
    class_id: NonNegativeInt


class FeedbackTaken(Body):
    """What the image had been answered."""

    request_id: str
    predicted_class_id: int
    correct: bool


def router(service: Service, metrics: Metrics) -> APIRouter:
    """Return the route that takes feedback."""
    routes = APIRouter(tags=["feedback"])

    @routes.post(
        "/feedback",
        summary="Tell an image's true class",
        responses={
            400: {"description": "bad-request", **_PROBLEM},
            404: {"description": "not-found: not among the last answers", **_PROBLEM},
            503: {"description": "draining · not-ready", **_PROBLEM},
        },
    )
    async def feedback(told: Feedback) -> FeedbackTaken:
        """Counts once per image. Needs TIDEGATE_REVIEW_DIR; the last 10,000 answers are known."""
        classes = service.require().bundle.manifest.task.classes
        if service.review is None:
            raise HTTPException(404, "Feedback is not taken: TIDEGATE_REVIEW_DIR is not set")
        if told.class_id >= classes:
            raise BadRequest(f"There is no class {told.class_id}: the model has {classes}.")
        found = service.review.label(told.request_id, told.class_id)
        if found is None:
            raise HTTPException(404, f"No recent answer has the id {told.request_id!r}")
        answered, is_news = found
        correct = answered.class_id == told.class_id
        if is_news:
            metrics.feedback(answered.probability, correct=correct)
        return FeedbackTaken(
            request_id=told.request_id, predicted_class_id=answered.class_id, correct=correct
        )

    return routes
