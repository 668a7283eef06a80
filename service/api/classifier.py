"""From a request to a classification and back: bounds, deadlines, refusals told from answers."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from service.api.context import RequestContext
from service.api.limits import ByteBudget, ClientQuota, HttpLimits, Reservation, read_body
from service.api.multipart import files, is_multipart
from service.api.problems import (
    OUT_OF_DISTRIBUTION,
    ClientGone,
    make_problem,
    problem_of,
    respond,
)
from service.api.schemas import (
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

TOP_K, MAX_TOP_K = 5, 10_000


class Classifier:
    """Answers the two routes that classify."""

    def __init__(
        self,
        service: Service,
        limits: HttpLimits,
        metrics: Metrics,
        ood_action: Literal["reject", "flag"],
    ) -> None:
        self._service = service
        self._limits = limits
        self._metrics = metrics
        self._flag = ood_action == "flag"
        self._budget = ByteBudget(limits.max_inflight_bytes, lambda: metrics.shed("upload-bytes"))
        self._quota = ClientQuota(limits.client_rate, limits.client_burst)
        self._model: ModelRef | None = None

    async def one(self, request: Request) -> Response:
        """Answer POST /classify."""
        context = RequestContext.of(request.scope)
        self._service.require()
        self._spend(request, 1)
        top_k, timeout_s = self._parameters(request)
        with self._budget.reserve() as reservation:
            image = await self._read(request, reservation)
            received = time.monotonic()
            content_type = request.headers.get("content-type", "")
            if is_multipart(content_type):
                image = (await asyncio.to_thread(files, image, content_type, "file", 1))[0]
            upload = Upload(image, received, received + timeout_s, top_k, Priority.INTERACTIVE)
            with UntilDisconnect(request.receive, self._metrics):
                result = await self._service.classify(upload)
        context.log["decision"] = result.verdict.decision
        context.log["p_value"] = round(result.verdict.p_value, 5)
        answer = self._tell(result, context)
        if isinstance(answer, Problem):
            return respond(answer)
        return Response(answer.model_dump_json(), media_type="application/json")

    async def batch(self, request: Request) -> Response:
        """Answer POST /classify/batch."""
        context = RequestContext.of(request.scope)
        self._service.require()
        top_k, timeout_s = self._parameters(request)
        content_type = request.headers.get("content-type", "")
        if not is_multipart(content_type):
            raise BadRequest("Send multipart/form-data with one part 'files' per image.")
        with self._budget.reserve() as reservation:
            body = await self._read(request, reservation)
            received = time.monotonic()
            most = self._limits.max_files
            images = await asyncio.to_thread(files, body, content_type, "files", most)
            del body  # its parts are copies
            self._spend(request, len(images))
            deadline = received + timeout_s
            uploads = [Upload(i, received, deadline, top_k, Priority.BULK) for i in images]
            del images
            with UntilDisconnect(request.receive, self._metrics):
                items = await asyncio.gather(*(self._item(upload, context) for upload in uploads))
        context.log["statuses"] = [item.status for item in items]
        answer = BatchBody(request_id=context.request_id, results=items)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    async def _read(self, request: Request, reservation: Reservation) -> bytes:
        started = time.monotonic()
        length = request.headers.get("content-length")
        body = await read_body(request.receive, length, self._limits, reservation)
        self._metrics.stages["read"].observe(time.monotonic() - started)
        return body

    def _spend(self, request: Request, images: int) -> None:
        client = request.client.host if request.client else "unknown"
        self._quota.spend(client, images, time.monotonic())

    def _parameters(self, request: Request) -> tuple[int, float]:
        """Return top_k and the time the answer may take, in seconds."""
        top_k = request.query_params.get("top_k") if request.scope["query_string"] else None
        timeout_ms = request.headers.get("x-request-timeout-ms")
        timeout_s = self._limits.deadline_s
        if timeout_ms is not None:
            timeout_s = _whole("X-Request-Timeout-Ms", timeout_ms) / 1000
        wanted = TOP_K if top_k is None else min(_whole("top_k", top_k), MAX_TOP_K)
        return wanted, min(timeout_s, self._limits.max_deadline_s)

    async def _item(self, upload: Upload, context: RequestContext) -> BatchItem:
        """Classify one image of a batch; its error is its own."""
        try:
            answer = self._tell(await self._service.classify(upload), context)
        except TidegateError as error:
            answer = problem_of(error, context)
        if isinstance(answer, Problem):
            return BatchItem(status=answer.status, problem=answer)
        return BatchItem(status=200, result=answer)

    def _tell(self, result: Classification, context: RequestContext) -> ClassifyBody | Problem:
        """Return the answer, or the refusal of a rejected image: without predictions."""
        bundle = self._service.require().bundle
        if self._model is None:
            self._model = model_ref(bundle)
        verdict, alpha = result.verdict, bundle.gate.alpha_reject
        if verdict.decision == "reject" and not self._flag:
            return make_problem(
                *OUT_OF_DISTRIBUTION,
                f"p = {verdict.p_value:.4g} is at most alpha_reject = {alpha:g}.",
                context,
                model=self._model,
                ood=ood_body(result, bundle),
            )
        return classify_body(result, bundle, self._model, context.request_id)


def _whole(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) > 0):
        raise BadRequest(f"{name} must be a whole number of at least 1, not {text[:40]!r}.")
    return int(text)


class UntilDisconnect:
    """Cancels the work inside when the client goes away; raises ClientGone then.

    The body has been read, so the next message can only be the disconnect.
    """

    def __init__(self, receive: Receive, metrics: Metrics) -> None:
        self._receive = receive
        self._metrics = metrics
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - handlers run in tasks
            raise RuntimeError("not in a task")
        self._task = task
        self._watcher = asyncio.ensure_future(self._watch())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        if self._gone and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            self._metrics.shed("client-gone")
            raise ClientGone from None

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()
