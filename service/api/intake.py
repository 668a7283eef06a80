"""What all routes that classify share, whatever their protocol: one road, with one set of limits.

A route parses its request into images, and turns the outcomes into its own answer. The steps
between are here: version, quota, memory of the body, deadline, disconnect, feedback and review.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from starlette.requests import Request

from tidegate.service.api.audit import Audit
from tidegate.service.api.body import BodyLimits
from tidegate.service.api.connection import ClientGone, Connection
from tidegate.service.api.context import RequestContext
from tidegate.service.api.image_body import BodyReader
from tidegate.service.api.limits import ClientQuota, HttpLimits
from tidegate.service.api.parameters import parse_timeout_s
from tidegate.service.api.uploads import ByteBudget, Reservation
from tidegate.service.catalog import Choice
from tidegate.service.errors import BadRequest
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Classification, Upload

Outcome = Classification | Exception  # of one image: a TidegateError, or a bug


class ImageFailed(Exception):
    """One of several images failed, and the request with it. `error` is the image's error."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(f"image {index}: {error}")
        self.index = index
        self.error = error


class Intake:
    """Takes requests for any protocol. Used on the event loop."""

    def __init__(
        self,
        service: Service,
        limits: HttpLimits,
        budget: ByteBudget,
        metrics: Metrics,
        quota: ClientQuota,
        audit: Audit | None = None,
    ) -> None:
        self.service = service
        self.limits = limits
        self.reader = BodyReader(
            BodyLimits(limits.max_upload_bytes, limits.upload_timeout_s),
            metrics.stages["read"].observe,
        )
        self._budget = budget
        self._metrics = metrics
        self._quota = quota
        self._audit = audit

    def choose(
        self, context: RequestContext, name: str = "", version: str = "", *, single: bool = False
    ) -> Choice:
        """Return the version that the caller names, or that the headers choose; log it.

        Without a name the default model is chosen. `single` is a request that can have only one
        image. Raises NotFound, NotReady or Draining.
        """
        chosen = self.service.choose(
            name,
            version or context.version,
            context.canary_key,
            context.request_id,
            has_own_id=single and context.has_own_id,
        )
        context.chosen = chosen
        context.log["model"], context.log["version"] = chosen.served.name, chosen.served.version
        return chosen

    def spend(self, client: str, images: int) -> None:
        """Count images against the client's quota. Raises QuotaExceeded or BadRequest."""
        self._quota.spend(client, images, time.monotonic())

    def timeout_s(self, context: RequestContext, asked_s: float | None = None) -> float:
        """Return the time from the last byte of a request to its deadline, in seconds.

        It is `asked_s`, which the protocol took from the body, or X-Request-Timeout-Ms, or the
        default; the shorter of two, and at most the operator's limit. Raises BadRequest.
        """
        header_s = None if context.timeout_ms is None else parse_timeout_s(context.timeout_ms)
        given = [one for one in (asked_s, header_s) if one is not None]
        return min(*given, self.limits.max_deadline_s) if given else self.limits.deadline_s

    @contextmanager
    def receiving(self, client: str, chosen: Choice) -> Iterator[Reservation]:
        """Keep the version loaded and hold the memory of a request until it is answered."""
        with chosen.served.lane.receiving(), self.reserve(client) as reservation:
            yield reservation

    def reserve(self, client: str) -> Reservation:
        """Return the memory of a request, a context manager, before its version is known."""
        return self._budget.reserve(client)

    def until_disconnect(self, request: Request) -> UntilDisconnect:
        """Return a context manager that cancels the work inside if the client disconnects."""
        return UntilDisconnect(request, self._metrics)

    async def classify(self, chosen: Choice, upload: Upload, image_id: str) -> Classification:
        """Classify one image, and remember the answer for feedback and review under `image_id`.

        Raises BadRequest for an empty image, QuotaExceeded, or what `Pipeline.classify` raises.
        """
        with self._quota.running(upload.client, 1):
            return await self._classify(chosen, upload, image_id)

    async def _classify(self, chosen: Choice, upload: Upload, image_id: str) -> Classification:
        if not upload.image and upload.pixels is None:
            raise BadRequest("The body or part is empty; send the bytes of an image.")
        result = await chosen.classify(upload, image_id)
        self.service.remember(image_id, upload.image, result, chosen.served.bundle)
        if self._audit is not None:
            self._audit.decided(image_id, upload, result, chosen.served.bundle)
        return result

    async def classify_each(
        self, chosen: Choice, uploads: Sequence[Upload], request_id: str
    ) -> list[Outcome]:
        """Classify several images; the error of one does not affect the others.

        Image i has the id `request_id.i`. Raises QuotaExceeded if they are too many at once.
        """
        work = (
            self._classify(chosen, upload, f"{request_id}.{index}")
            for index, upload in enumerate(uploads)
        )
        with self._running(uploads):
            outcomes = await asyncio.gather(*work, return_exceptions=True)
        return [_outcome(outcome) for outcome in outcomes]

    async def classify_all(
        self, chosen: Choice, uploads: Sequence[Upload], request_id: str
    ) -> list[Classification]:
        """Classify all images of a request that fails with its first bad image.

        A single image has the request's id, image i of several `request_id.i`. Raises the single
        image's error, or ImageFailed; the other images then leave the queue. Raises QuotaExceeded
        if they are too many at once.
        """
        if len(uploads) == 1:
            return [await self.classify(chosen, uploads[0], request_id)]
        with self._running(uploads):
            return await self._classify_all(chosen, uploads, request_id)

    def _running(self, uploads: Sequence[Upload]) -> AbstractContextManager[None]:
        return self._quota.running(uploads[0].client if uploads else "", len(uploads))

    async def _classify_all(
        self, chosen: Choice, uploads: Sequence[Upload], request_id: str
    ) -> list[Classification]:
        tasks = [
            asyncio.ensure_future(self._classify(chosen, upload, f"{request_id}.{index}"))
            for index, upload in enumerate(uploads)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for index, task in enumerate(tasks):
                if task.done() and (error := task.exception()) is not None:
                    raise ImageFailed(index, _exception(error))
            return [task.result() for task in tasks]
        finally:
            await _cancel(tasks)


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


def log_outcomes(context: RequestContext, outcomes: Sequence[Outcome]) -> None:
    """Add the decisions on a request's images to its log line."""
    if len(outcomes) == 1 and isinstance(outcomes[0], Classification):
        verdict = outcomes[0].verdict
        context.log["decision"] = verdict.decision
        context.log["p_value"] = round(verdict.p_value, 5)
    else:
        context.log["decisions"] = [
            one.verdict.decision if isinstance(one, Classification) else "error" for one in outcomes
        ]


def _outcome(outcome: Classification | BaseException) -> Outcome:
    return _exception(outcome) if isinstance(outcome, BaseException) else outcome


def _exception(error: BaseException) -> Exception:
    """Return an error of one image; a cancellation or an exit is raised."""
    if isinstance(error, Exception):
        return error
    raise error


async def _cancel(tasks: Sequence[asyncio.Future[Classification]]) -> None:
    left = [task for task in tasks if not task.done()]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio logs it
