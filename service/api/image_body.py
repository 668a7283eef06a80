"""Read the images of a request: the body itself, base64 text in JSON, or parts of a form."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request

from tidegate.service.api.body import BodyLimits, feed_body, read_body
from tidegate.service.api.content_encoding import coding_of, decode
from tidegate.service.api.context import RequestContext
from tidegate.service.api.json_image import image_of, is_json_object
from tidegate.service.api.multipart import FormFiles, is_multipart
from tidegate.service.api.uploads import Reservation


class BodyReader:
    """Reads request bodies within their limits, and without their Content-Encoding."""

    def __init__(self, limits: BodyLimits, on_read: Callable[[float], None]) -> None:
        """`on_read` is called with the seconds that each body took."""
        self._limits = limits
        self._on_read = on_read

    async def body(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> bytes:
        """Return the body. Raises what `read_body` and `decode` raise."""
        started = time.monotonic()
        if context.content_encoding:
            body = await self._decoded(request, context, reservation)
        else:
            body = await read_body(request, reservation, self._limits)
        self._on_read(time.monotonic() - started)
        return body

    async def image(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> bytes:
        """Return the one image of a request. Raises also BadRequest."""
        if is_multipart(context.content_type):
            (image,) = await self.files(request, context, reservation, "file", 1)
            return image
        body = await self.body(request, context, reservation)
        return await image_of(body, reservation) if is_json_object(body) else body

    async def files(
        self,
        request: Request,
        context: RequestContext,
        reservation: Reservation,
        field: str,
        most: int,
    ) -> list[bytes]:
        """Return the files of a form; see FormFiles."""
        form = FormFiles(context.content_type, field, most)
        if context.content_encoding:
            form.add(await self.body(request, context, reservation))
            return form.files()
        started = time.monotonic()
        await feed_body(request, reservation, self._limits, form.add)
        self._on_read(time.monotonic() - started)
        return form.files()

    async def _decoded(
        self, request: Request, context: RequestContext, reservation: Reservation
    ) -> bytes:
        coding = coding_of(context.content_encoding)  # rejects others before the body is read
        body = await read_body(request, reservation, self._limits)
        return await decode(body, coding, self._limits.max_bytes, reservation.grow_to)
