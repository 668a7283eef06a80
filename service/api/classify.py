"""POST /classify and /classify/batch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.types import Receive

from service.api.context import RequestContext
from service.api.limits import ByteBudget, ClientQuota, HttpLimits, read_body
from service.api.multipart import files, is_multipart
from service.api.problems import (
    MEDIA_TYPE,
    OUT_OF_DISTRIBUTION,
    PROBLEM_REF,
    ClientGone,
    make_problem,
    problem_of,
    respond,
)
from service.api.schemas import (
    EXAMPLE_ANSWER,
    EXAMPLE_REFUSAL,
    BatchBody,
    BatchItem,
    ClassifyBody,
    ModelRef,
    Problem,
    classify_body,
    model_ref,
    ood_body,
)
from service.errors import BadRequest, TidegateError
from service.lifecycle import Service
from service.metrics import Metrics
from service.pipeline import Classification, Upload
from service.types import Priority

_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_TYPES = ("jpeg", "png", "webp", "bmp", "gif", "tiff")
_TopK = Annotated[int, Query(ge=1, le=10_000, description="how many classes to return, best first")]
_TimeoutMs = Annotated[
    int | None,
    Header(
        alias="X-Request-Timeout-Ms",
        ge=1,
        description="answer within this many milliseconds of the upload's last byte, or not at all",
    ),
]


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": {"type": "object", "properties": {field: schema}, "required": [field]},
    }


def _problems(**codes: str) -> dict[int | str, dict[str, Any]]:
    return {
        int(status[1:]): {"description": text, "content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}
        for status, text in codes.items()
    }


_RESPONSES = _problems(
    _400="bad-request",
    _408="upload-timeout",
    _413="upload-too-large · image-too-large",
    _415="unsupported-image-type",
    _422="undecodable-image · out-of-distribution",
    _429="quota-exceeded",
    _500="engine-failed",
    _503="overloaded · draining · not-ready, with Retry-After",
    _504="deadline-missed",
)
_RESPONSES[422]["content"][MEDIA_TYPE]["example"] = EXAMPLE_REFUSAL


class Classifier:
    """What both routes share: reading, bounds, deadlines, and telling a refusal from an answer."""

    def __init__(
        self,
        service: Service,
        limits: HttpLimits,
        metrics: Metrics,
        ood_action: Literal["reject", "flag"],
    ) -> None:
        self.service = service
        self.limits = limits
        self._metrics = metrics
        self._flag = ood_action == "flag"
        self._budget = ByteBudget(limits.max_inflight_bytes)
        self._quota = ClientQuota(limits.client_rate, limits.client_burst)
        self._model: ModelRef | None = None

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """Read the body and hold its bytes against the budget until the request is answered."""
        self.service.require()
        with self._budget.reserve() as reservation:
            started = time.monotonic()
            length = request.headers.get("content-length")
            body = await read_body(request.receive, length, self.limits, reservation)
            self._metrics.stages["read"].observe(time.monotonic() - started)
            yield body

    def spend(self, request: Request, images: int) -> None:
        """Count images against the client's quota."""
        client = request.client.host if request.client else "unknown"
        self._quota.spend(client, images, time.monotonic())

    def upload(self, image: bytes, top_k: int, timeout_ms: int | None, batch: bool) -> Upload:
        """Give an image its deadline: it is born once the last byte is here."""
        now = time.monotonic()
        timeout_s = self.limits.deadline_s if timeout_ms is None else timeout_ms / 1000
        return Upload(
            image=image,
            received=now,
            deadline=now + min(timeout_s, self.limits.max_deadline_s),
            top_k=top_k,
            priority=Priority.BULK if batch else Priority.INTERACTIVE,
        )

    def answer(self, result: Classification, context: RequestContext) -> ClassifyBody | Problem:
        """Return the answer, or the refusal of a rejected image: without predictions."""
        bundle = self.service.require().bundle
        if self._model is None:
            self._model = model_ref(bundle)
        verdict = result.verdict
        if verdict.decision == "reject" and not self._flag:
            detail = (
                f"p = {verdict.p_value:.4g} is at most alpha_reject = {bundle.gate.alpha_reject:g}."
            )
            return make_problem(
                *OUT_OF_DISTRIBUTION,
                detail,
                context,
                model=self._model,
                ood=ood_body(result, bundle),
            )
        return classify_body(result, bundle, self._model, context.request_id)

    async def item(self, upload: Upload, context: RequestContext) -> BatchItem:
        """Classify one image of a batch; its error is its own."""
        try:
            answer = self.answer(await self.service.classify(upload), context)
        except TidegateError as error:
            answer = problem_of(error, context)
        if isinstance(answer, Problem):
            return BatchItem(status=answer.status, problem=answer)
        return BatchItem(status=200, result=answer)


@asynccontextmanager
async def cancelled_on_disconnect(receive: Receive, metrics: Metrics) -> AsyncIterator[None]:
    """Cancel the work inside when the client goes away; raises ClientGone then.

    The body has been read, so the next message can only be the disconnect.
    """
    task = asyncio.current_task()
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        if task is not None:
            task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone or task is None:
            raise
        task.uncancel()
        metrics.shed("client-gone")
        raise ClientGone from None
    finally:
        watcher.cancel()


def router(classifier: Classifier, metrics: Metrics) -> APIRouter:
    """Return the routes that classify."""
    routes = APIRouter(tags=["classify"])

    @routes.post(
        "/classify",
        summary="Classify one image",
        response_model=ClassifyBody,
        responses={
            200: {"content": {"application/json": {"example": EXAMPLE_ANSWER}}},
            **_RESPONSES,
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    **{f"image/{kind}": _IMAGE for kind in _TYPES},
                    "multipart/form-data": _form("file", {"type": "string", "format": "binary"}),
                },
            }
        },
    )
    async def classify(
        request: Request, top_k: _TopK = 5, timeout_ms: _TimeoutMs = None
    ) -> Response:
        """Send the image as the raw body (fastest) or as multipart part `file`."""
        context = RequestContext.of(request.scope)
        classifier.spend(request, 1)
        async with classifier.body(request) as body:
            content_type = request.headers.get("content-type", "")
            if is_multipart(content_type):
                image = (await asyncio.to_thread(files, body, content_type, "file", 1))[0]
            else:
                image = body
            async with cancelled_on_disconnect(request.receive, metrics):
                upload = classifier.upload(image, top_k, timeout_ms, batch=False)
                result = await classifier.service.classify(upload)
        context.log["decision"] = result.verdict.decision
        context.log["p_value"] = round(result.verdict.p_value, 5)
        answer = classifier.answer(result, context)
        if isinstance(answer, Problem):
            return respond(answer)
        return Response(answer.model_dump_json(), media_type="application/json")

    @routes.post(
        "/classify/batch",
        summary="Classify several images",
        response_model=BatchBody,
        responses=_RESPONSES,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": _form(
                        "files",
                        {"type": "array", "items": {"type": "string", "format": "binary"}},
                    ),
                },
            }
        },
    )
    async def classify_batch(
        request: Request, top_k: _TopK = 5, timeout_ms: _TimeoutMs = None
    ) -> Response:
        """Send multipart parts `files`; answers one result or problem per image, in their order."""
        context = RequestContext.of(request.scope)
        limits = classifier.limits
        content_type = request.headers.get("content-type", "")
        if not is_multipart(content_type):
            raise BadRequest("Send multipart/form-data with one part 'files' per image.")
        async with classifier.body(request) as body:
            images = await asyncio.to_thread(files, body, content_type, "files", limits.max_files)
            classifier.spend(request, len(images))
            async with cancelled_on_disconnect(request.receive, metrics):
                uploads = [
                    classifier.upload(image, top_k, timeout_ms, batch=True) for image in images
                ]
                items = await asyncio.gather(
                    *(classifier.item(upload, context) for upload in uploads)
                )
        context.log["statuses"] = [item.status for item in items]
        answer = BatchBody(request_id=context.request_id, results=items)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    return routes
