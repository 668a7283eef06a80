"""From a request to a classification and back: limits, deadlines, answers and problems."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from tidegate.service.api.body import BodyLimits, feed_body, read_body
from tidegate.service.api.connection import ClientGone, Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.limits import ClientQuota, HttpLimits, client_of
from tidegate.service.api.multipart import FormFiles, is_multipart
from tidegate.service.api.parameters import USUAL, Wanted, parse_timeout_s, parse_wanted
from tidegate.service.api.problems import (
    OUT_OF_DISTRIBUTION,
    Json,
    make_problem,
    problem_of,
    respond,
    unexpected_problem,
)
from tidegate.service.api.schemas import as_json, classify_body, model_ref, ood_body
from tidegate.service.api.uploads import ByteBudget, Reservation
from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import Choice
from tidegate.service.errors import BadRequest, QuotaExceeded, TidegateError
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.types import Priority

_REFS_KEPT = 100
Use = Callable[[Choice, Upload], Awaitable[Response]]


class ClassifyHandler:
    """Handles the classify routes."""

    def __init__(
        self,
        service: Service,
        limits: HttpLimits,
        budget: ByteBudget,
        metrics: Metrics,
        ood_action: Literal["reject", "flag"],
    ) -> None:
        self._service = service
        self.limits = limits
        self._body_limits = BodyLimits(limits.max_upload_bytes, limits.upload_timeout_s)
        self._budget = budget
        self._metrics = metrics
        self._flag = ood_action == "flag"
        self._quota = ClientQuota(limits.client_rate, limits.client_burst)
        self._models: dict[str, dict[str, str]] = {}  # ModelRef by digest

    async def single(self, request: Request, name: str = "", version: str = "") -> Response:
        """Handle POST /classify and the same of one model or version."""
        context = RequestContext.of(request.scope)
        chosen = self._choose(context, name, version)
        bundle = chosen.served.bundle
        client = client_of(request.scope)
        wanted, timeout_s = self._parameters(request, context)  # invalid ones cost no quota
        self._quota.spend(client, 1, time.monotonic())
        with chosen.served.lane.receiving(), self._budget.reserve(client) as reservation:
            image = await self._read_image(request, context, reservation)
            received = time.monotonic()
            upload = _upload(image, received, timeout_s, wanted, Priority.INTERACTIVE, client)
            with UntilDisconnect(request, self._metrics):
                result = await chosen.classify(upload, context.request_id)
        self._service.remember(context.request_id, image, result, bundle)
        context.log["decision"] = result.verdict.decision
        context.log["p_value"] = round(result.verdict.p_value, 5)
        answer = self._body(result, bundle, wanted, context)
        response = respond(answer) if _is_problem(answer) else Json(as_json(answer))
        predicted = b"predicted;dur=%.2f" % (1000 * result.timing.predicted)
        response.raw_headers.append((b"server-timing", predicted))
        return response

    async def batch(self, request: Request, name: str = "", version: str = "") -> Response:
        """Handle POST /classify/batch and the same of one model or version."""
        context = RequestContext.of(request.scope)
        chosen = self._choose(context, name, version)
        wanted, timeout_s = self._parameters(request, context)
        client = client_of(request.scope)
        if not is_multipart(context.content_type):
            raise BadRequest('Send multipart/form-data with one part "files" per image.')
        with chosen.served.lane.receiving(), self._budget.reserve(client) as reservation:
            most = self.limits.max_files
            images = await self._read_files(request, context, reservation, "files", most)
            received = time.monotonic()
            self._quota.spend(client, len(images), received)
            uploads = [
                _upload(image, received, timeout_s, wanted, Priority.BULK, client)
                for image in images
            ]
            del images
            with UntilDisconnect(request, self._metrics):
                items = await asyncio.gather(
                    *(self._item(i, one, chosen, wanted, context) for i, one in enumerate(uploads))
                )
        context.log["statuses"] = [item["status"] for item in items]
        return Json(as_json({"request_id": context.request_id, "results": items}))

    def _choose(self, context: RequestContext, name: str, version: str) -> Choice:
        """Return the version that the path names, or that the headers choose."""
        chosen = self._service.choose(
            name, version or context.version, context.canary_key, context.request_id
        )
        context.log["model"], context.log["version"] = chosen.served.name, chosen.served.version
        return chosen

    async def inspect(
        self, request: Request, name: str, version: str, least_timeout_s: float, use: Use
    ) -> Response:
        """Return what `use` makes of one image, which is received and bounded as by `single`.

        Its priority is that of a batch. A request without a timeout has at least `least_timeout_s`.
        """
        context = RequestContext.of(request.scope)
        chosen = self._choose(context, name, version)
        client = client_of(request.scope)
        _, timeout_s = self._parameters(request, context)
        if context.timeout_ms is None:
            timeout_s = min(max(timeout_s, least_timeout_s), self.limits.max_deadline_s)
        self._quota.spend(client, 1, time.monotonic())
        with chosen.served.lane.receiving(), self._budget.reserve(client) as reservation:
            image = await self._read_image(request, context, reservation)
            received = time.monotonic()
            upload = _upload(image, received, timeout_s, USUAL, Priority.BULK, client)
            with UntilDisconnect(request, self._metrics):
                return await use(chosen, upload)

    async def spend_in_time(self, upload: Upload) -> None:
        """Count one more run against an upload's client, and wait if its quota is used up.

        Raises QuotaExceeded if it has none left until the upload's deadline.
        """
        while True:
            now = time.monotonic()
            try:
                return self._quota.spend(upload.client, 1, now)
            except QuotaExceeded as error:
                wait_s = error.retry_after_s or 0.0
                if now + wait_s > upload.deadline:
                    raise
            await asyncio.sleep(wait_s)

    async def _read_image(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> bytes:
        """Return the image of a request for one: the body, or the part "file" of a form."""
        if is_multipart(context.content_type):
            (image,) = await self._read_files(request, context, reservation, "file", 1)
        else:
            image = await self._read(request, reservation)
        _check_not_empty(image)
        return image

    async def _read(self, request: Request, reservation: Reservation) -> bytes:
        started = time.monotonic()
        body = await read_body(request, reservation, self._body_limits)
        self._metrics.stages["read"].observe(time.monotonic() - started)
        return body

    async def _read_files(
        self,
        request: Request,
        context: RequestContext,
        reservation: Reservation,
        field: str,
        most: int,
    ) -> list[bytes]:
        started = time.monotonic()
        form = FormFiles(context.content_type, field, most)
        await feed_body(request, reservation, self._body_limits, form.add)
        self._metrics.stages["read"].observe(time.monotonic() - started)
        return form.files()

    def _parameters(self, request: Request, context: RequestContext) -> tuple[Wanted, float]:
        """Return what the answer shall contain and the request's timeout in seconds."""
        query = request.scope["query_string"]
        wanted = parse_wanted(query) if query else USUAL
        timeout_s = self.limits.deadline_s
        if context.timeout_ms is not None:
            timeout_s = parse_timeout_s(context.timeout_ms)
        return wanted, min(timeout_s, self.limits.max_deadline_s)

    async def _item(
        self, index: int, upload: Upload, chosen: Choice, wanted: Wanted, context: RequestContext
    ) -> dict[str, Any]:
        """Classify one image of a batch and return its BatchItem, with its problem if it failed."""
        try:
            _check_not_empty(upload.image)
            image_id, bundle = f"{context.request_id}.{index}", chosen.served.bundle
            result = await chosen.classify(upload, image_id)
            self._service.remember(image_id, upload.image, result, bundle)
            answer = self._body(result, bundle, wanted, context)
        except TidegateError as error:
            answer = problem_of(error, context)
        except Exception as error:  # noqa: BLE001 - a bug: the other images are answered
            answer = unexpected_problem(error, context)
        if _is_problem(answer):
            return {"status": answer["status"], "problem": answer}
        return {"status": 200, "result": answer}

    def _body(
        self, result: Classification, bundle: Bundle, wanted: Wanted, context: RequestContext
    ) -> dict[str, Any]:
        """Return the answer, or a problem without predictions if the image is rejected."""
        verdict, alpha = result.verdict, bundle.gate.alpha_reject
        if verdict.decision == "reject" and not self._flag:
            return make_problem(
                *OUT_OF_DISTRIBUTION,
                f"p = {verdict.p_value:.4g} is at most alpha_reject = {alpha:g}.",
                context,
                model=self._ref(bundle),
                ood=ood_body(result, bundle),
            )
        return classify_body(result, bundle, self._ref(bundle), context.request_id, wanted)

    @property
    def flags_rejected(self) -> bool:
        """Return whether rejected images are answered."""
        return self._flag

    def _ref(self, bundle: Bundle) -> dict[str, str]:
        found = self._models.get(bundle.digest)
        if found is None:
            if len(self._models) >= _REFS_KEPT:
                self._models.clear()
            found = self._models[bundle.digest] = model_ref(bundle).model_dump()
        return found


def _upload(
    image: bytes,
    received: float,
    timeout_s: float,
    wanted: Wanted,
    priority: Priority,
    client: str,
) -> Upload:
    deadline, features = received + timeout_s, wanted.features != ""
    return Upload(image, received, deadline, wanted.top_k, priority, client, features)


def _is_problem(answer: dict[str, Any]) -> bool:
    return "code" in answer  # every problem has one, and no answer does


def _check_not_empty(image: bytes) -> None:
    if not image:
        raise BadRequest("The body or part is empty; send the bytes of an image.")


class UntilDisconnect:
    """Cancels the work inside and raises ClientGone if the client disconnects."""

    def __init__(self, request: Request, metrics: Metrics) -> None:
        self._connection = Connection.of(request.scope)
        self._metrics = metrics
        self._gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:  # pragma: no cover - handlers run in tasks
            raise RuntimeError("not in a task")
        self._task = task
        if self._connection.lost:
            self._metrics.shed("client-gone")
            raise ClientGone
        self._connection.on_loss.add(self._leave)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.on_loss.discard(self._leave)
        if self._gone and isinstance(error, asyncio.CancelledError):
            self._task.uncancel()
            self._metrics.shed("client-gone")
            raise ClientGone from None

    def _leave(self) -> None:
        self._gone = True
        self._task.cancel()
