"""POST /preprocess and /explain: what the network sees, and what its answer rests on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from tidegate.service.api.accept import prefers
from tidegate.service.api.bodies import model_fields, model_ref
from tidegate.service.api.context import RequestContext
from tidegate.service.api.described_failures import CLASSIFYING, as_problems
from tidegate.service.api.intake import Intake
from tidegate.service.api.limits import client_of
from tidegate.service.api.parameters import query_fields, whole_number
from tidegate.service.api.problems import OUT_OF_DISTRIBUTION, make_problem, respond
from tidegate.service.api.routes.classify import IMAGE_BODY, TIMEOUT
from tidegate.service.api.schemas import Body, ModelRef
from tidegate.service.catalog import Choice
from tidegate.service.deciding import Decided
from tidegate.service.errors import BadRequest, QuotaExceeded
from tidegate.service.explaining import cover_each_part
from tidegate.service.imaging.occlusion import (
    PATCH_CELLS,
    Grid,
    fall_of_log_odds,
    fill_of,
    heat_map,
    picture,
    png,
)
from tidegate.service.pipeline import Upload
from tidegate.service.types import Pixels, Priority

GRID, MIN_GRID, MAX_GRID = 7, 2, 14
_ANY = 10**9  # a class_id that some model may have
EXPLAIN_S = 30.0  # least default deadline of an explanation, which runs the network many times
Use = Callable[[Choice, Upload], Awaitable[Response]]
_NEVER_REJECTS = CLASSIFYING | {422: "undecodable-image"}
_PNG = "image/png"
_PNG_BODY = {_PNG: {"schema": {"type": "string", "format": "binary"}}}
_PARAMETERS = [
    {
        "name": "grid",
        "in": "query",
        "description": "rows and columns of the map; the network runs grid² + 1 times",
        "schema": {"type": "integer", "minimum": MIN_GRID, "maximum": MAX_GRID, "default": GRID},
    },
    {
        "name": "class_id",
        "in": "query",
        "description": "the class to explain; default: the predicted one",
        "schema": {"type": "integer", "minimum": 0},
    },
]


class ExplanationBody(Body):
    """How the probability of one class changes when each part of the image is covered.

    Rows are from the top, columns from the left, in the picture that POST /preprocess returns.
    """

    request_id: str
    model: ModelRef
    class_id: int
    label: str
    probability: float = Field(description="of the class, with nothing covered")
    height: int = Field(description="of the network's input, in pixels")
    width: int
    grid: int = Field(description="rows and columns of the map")
    patch_cells: float = Field(description="side of the patch that covers each cell, in cells")
    fill: tuple[int, int, int] = Field(
        description="the colour of the patch, in the order of the network's channels: the one that "
        "its normalisation makes 0"
    )
    probabilities: list[list[float]] = Field(description="with each part covered")
    importance: list[list[float]] = Field(
        description="fall of the class's log-odds with each part covered; negative: it rises"
    )
    runs: int = Field(description="images computed, which the client's quota counts")


@dataclass(frozen=True, slots=True)
class Options:
    """The parameters of an explanation."""

    grid: int
    class_id: int | None

    @classmethod
    def of(cls, query: bytes) -> Options:
        """Parse a query string; other fields are ignored. Raises BadRequest."""
        fields = query_fields(query, ("grid", "class_id"))
        grid = whole_number("grid", fields.get("grid", str(GRID)), MIN_GRID, MAX_GRID)
        class_id = fields.get("class_id")
        return cls(grid, None if class_id is None else whole_number("class_id", class_id, 0, _ANY))


def router(intake: Intake, ood_action: Literal["reject", "flag"]) -> APIRouter:
    """Return the routes that show how an image is seen."""
    routes = APIRouter(tags=["inspect"])

    def add(prefix: str, whose: str) -> None:
        """Add the two routes of the default model, of a model or of a version."""

        @routes.post(
            f"{prefix}/preprocess",
            summary=f"Show what the network sees of an image{whose}",
            response_class=Response,
            responses={200: {"content": _PNG_BODY}, **as_problems(_NEVER_REJECTS)},
            openapi_extra={"parameters": [TIMEOUT], **IMAGE_BODY},
        )
        async def preprocess(request: Request) -> Response:
            """The picture after orientation, resize and crop, as a PNG. Counts as one image."""
            return await _with_image(intake, request, None, _see)

        @routes.post(
            f"{prefix}/explain",
            summary=f"Show which parts of an image a class depends on{whose}",
            response_model=ExplanationBody,
            responses={200: {"content": _PNG_BODY}, **as_problems(CLASSIFYING)},
            openapi_extra={"parameters": [*_PARAMETERS, TIMEOUT], **IMAGE_BODY},
        )
        async def explain(request: Request) -> Response:
            """An occlusion map: numbers, or with `Accept: image/png` a picture.

            Each of its runs counts as one image, with the priority of a batch's images.
            """
            options = Options.of(request.scope["query_string"])
            explaining = _Explaining(intake, request, options, flags=ood_action == "flag")
            return await _with_image(intake, request, EXPLAIN_S, explaining.respond)

    add("", "")
    add("/models/{name}", " with a model")
    add("/models/{name}/versions/{version}", " with a version or an alias")
    return routes


async def _with_image(
    intake: Intake, request: Request, usual_timeout_s: float | None, use: Use
) -> Response:
    """Return what `use` makes of the image of a request, with the priority of a batch's images."""
    context, client = RequestContext.of(request.scope), client_of(request.scope)
    path = request.path_params
    chosen = intake.choose(context, path.get("name", ""), path.get("version", ""))
    usual = usual_timeout_s if context.timeout_ms is None else None
    timeout_s = intake.timeout_s(context, usual)
    intake.spend(client, 1)
    with intake.receiving(client, chosen) as reservation:
        image = await intake.reader.image(request, context, reservation)
        received = time.monotonic()
        if not image:
            raise BadRequest("The body or part is empty; send the bytes of an image.")
        upload = Upload(image, received, received + timeout_s, 1, Priority.BULK, client)
        with intake.until_disconnect(request):
            return await use(chosen, upload)


async def _spend_in_time(intake: Intake, upload: Upload) -> None:
    """Count one more run against an upload's client, and wait if its quota is used up.

    Raises QuotaExceeded if it has none left until the upload's deadline.
    """
    while True:
        try:
            return intake.spend(upload.client, 1)
        except QuotaExceeded as error:
            wait_s = error.retry_after_s or 0.0
            if time.monotonic() + wait_s > upload.deadline:
                raise
        await asyncio.sleep(wait_s)


async def _see(chosen: Choice, upload: Upload) -> Response:
    pixels, _ = await chosen.served.pipeline.look(upload)
    spec = chosen.served.bundle.manifest.preprocess
    return await _png_response(lambda: picture(pixels, spec))


async def _png_response(draw: Callable[[], Pixels]) -> Response:
    """Draw and encode on a thread, as it takes milliseconds."""
    content = await asyncio.to_thread(lambda: png(draw()))
    return Response(content, media_type=_PNG, headers={"Cache-Control": "no-store"})


class _Explaining:
    """Makes one explanation."""

    def __init__(self, intake: Intake, request: Request, options: Options, *, flags: bool) -> None:
        """`flags`: rejected images are answered."""
        self._intake = intake
        self._flags = flags
        self._context = RequestContext.of(request.scope)
        self._as_png = prefers(request.headers.get("accept", ""), _PNG, "application/json")
        self._options = options

    async def respond(self, chosen: Choice, upload: Upload) -> Response:
        """Return the map, or the problem of a rejected image, which has no predicted class."""
        served, class_id = chosen.served, self._options.class_id
        classes = served.bundle.manifest.task.classes
        if class_id is not None and class_id >= classes:
            raise BadRequest(f"class_id must be less than {classes}, the number of classes.")
        pixels, outputs = await served.pipeline.look(upload)
        decided = served.pipeline.decide(outputs)
        if class_id is None:
            if decided.verdict.decision == "reject" and not self._flags:
                return self._rejected(chosen, decided)
            class_id = decided.class_id
        covered = await cover_each_part(
            served.pipeline,
            upload,
            pixels,
            class_id,
            self._options.grid,
            lambda: _spend_in_time(self._intake, upload),
        )
        return await self._answer(
            chosen, pixels, class_id, float(decided.probabilities[class_id]), covered
        )

    def _rejected(self, chosen: Choice, decided: Decided) -> Response:
        bundle = chosen.served.bundle
        problem = make_problem(
            *OUT_OF_DISTRIBUTION,
            f"p = {decided.verdict.p_value:.4g} is at most alpha_reject = "
            f"{bundle.gate.alpha_reject:g}: there is no predicted class. Name one with class_id.",
            self._context,
            model=model_fields(bundle),
        )
        return respond(problem, self._context)

    async def _answer(
        self, chosen: Choice, pixels: Pixels, class_id: int, probability: float, covered: Grid
    ) -> Response:
        bundle = chosen.served.bundle
        spec = bundle.manifest.preprocess
        falls = fall_of_log_odds(probability, covered)
        if self._as_png:
            return await _png_response(lambda: heat_map(pixels, falls, spec))
        height, width, _ = pixels.shape
        body = ExplanationBody(
            request_id=self._context.request_id,
            model=model_ref(bundle),
            class_id=class_id,
            label=bundle.labels[class_id],
            probability=probability,
            height=height,
            width=width,
            grid=len(covered),
            patch_cells=PATCH_CELLS,
            fill=fill_of(spec),
            probabilities=covered.tolist(),
            importance=falls.tolist(),
            runs=covered.size + 1,
        )
        return Response(body.model_dump_json(), media_type="application/json")
