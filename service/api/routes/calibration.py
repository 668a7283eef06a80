"""GET /models/{name}/calibration: where the scores of calibration images lie."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from tidegate.service.api.bodies import model_ref
from tidegate.service.api.parameters import query_fields, whole_number
from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF
from tidegate.service.api.schemas import Body, ModelRef
from tidegate.service.bundle.store import Bundle
from tidegate.service.lifecycle import Service
from tidegate.service.ood.histograms import CalibrationHistograms, Histogram, calibration_histograms

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"description": "bad-request", **_PROBLEM},
    404: {"description": "not-found", **_PROBLEM},
    503: {"description": "draining · not-ready", **_PROBLEM},
}
_CLASS = {
    "parameters": [
        {
            "name": "class_id",
            "in": "query",
            "description": "take the images that judge those predicted as this class",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
}


class BinsBody(Body):
    """Counts of calibration images between equally spaced edges; outer bins are unbounded."""

    edges: list[float] = Field(description="ascending, one more than counts")
    counts: list[int]


class ScoreBinsBody(BinsBody):
    """One score of the calibration images of fold A; higher is more unusual."""

    name: str
    decides: bool = Field(description="whether the final p-value combines it")


class CombinedBinsBody(BinsBody):
    """The sum of the deciding scores' −log p over the images of fold B."""

    size: int = Field(description="number of images")
    review_above: float = Field(description="p is at most alpha_review above this sum")
    reject_above: float = Field(description="p is at most alpha_reject above this sum")


class CalibrationBody(Body):
    """The calibration of a version's gate, in bins: it has the score of no single image."""

    model: ModelRef
    guarantee: Literal["marginal", "pac"]
    alpha_reject: float
    alpha_review: float
    own_thresholds: int = Field(description="classes that are judged by their own images")
    combined: CombinedBinsBody
    p_value: BinsBody = Field(description="the final p-value of the images of fold B")
    scores: list[ScoreBinsBody] = Field(description="those that decide first")


def router(service: Service) -> APIRouter:
    """Return the routes that describe calibrations."""
    routes = APIRouter(tags=["models"])

    @routes.get(
        "/models/{name}/calibration",
        summary="Histograms of the stable version's calibration",
        responses=_RESPONSES,
        openapi_extra=_CLASS,
    )
    async def calibration(request: Request, name: str) -> CalibrationBody:
        return await _describe(service.catalog.model(name).stable.bundle, request)

    @routes.get(
        "/models/{name}/versions/{version}/calibration",
        summary="Histograms of a version's calibration",
        responses=_RESPONSES,
        openapi_extra=_CLASS,
    )
    async def calibration_of(request: Request, name: str, version: str) -> CalibrationBody:
        """Takes a version or an alias."""
        return await _describe(service.catalog.model(name).version(version).bundle, request)

    return routes


async def _describe(bundle: Bundle, request: Request) -> CalibrationBody:
    fields = query_fields(request.scope["query_string"], ("class_id",))
    most, class_id = bundle.manifest.task.classes - 1, None
    if "class_id" in fields:
        class_id = whole_number("class_id", fields["class_id"], 0, most)
    # On a thread, because a fold may have many thousands of images.
    return _body(bundle, await asyncio.to_thread(calibration_histograms, bundle.gate, class_id))


def _body(bundle: Bundle, found: CalibrationHistograms) -> CalibrationBody:
    gate = bundle.gate
    names = [*gate.combination, *(name for name in found.scores if name not in gate.combination)]
    return CalibrationBody(
        model=model_ref(bundle),
        guarantee=bundle.manifest.gate.guarantee,
        alpha_reject=gate.alpha_reject,
        alpha_review=gate.alpha_review,
        own_thresholds=len(gate.own_folds_b),
        combined=CombinedBinsBody(
            **_bins(found.fold.combined),
            size=found.fold.size,
            review_above=found.fold.review_above,
            reject_above=found.fold.reject_above,
        ),
        p_value=BinsBody(**_bins(found.p_values)),
        scores=[
            ScoreBinsBody(**_bins(found.scores[name]), name=name, decides=name in gate.combination)
            for name in names
        ],
    )


def _bins(histogram: Histogram) -> dict[str, Any]:
    return {"edges": histogram.edges.tolist(), "counts": list(histogram.counts)}
