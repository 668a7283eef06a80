"""GET /metrics: Prometheus text or OpenMetrics, compressed if the scraper accepts it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request, Response

from tidegate.service.api.negotiation import accepts_gzip, content_type_of
from tidegate.service.metrics import Metrics

_LEVEL = 1  # of gzip: 20 times smaller in a millisecond
_GZIP = 16 + zlib.MAX_WBITS


def router(metrics: Metrics, before: Callable[[], Awaitable[None]] | None = None) -> APIRouter:
    """Return the route that Prometheus scrapes. `before` is awaited before each scrape."""
    routes = APIRouter(tags=["operations"])
    one_at_a_time = asyncio.Lock()  # further scrapers would only slow each other down

    @routes.get("/metrics", summary="Prometheus text, or OpenMetrics", response_class=Response)
    async def scrape(request: Request) -> Response:
        """Send `Accept: application/openmetrics-text` for OpenMetrics, which has exemplars."""
        content_type = content_type_of(",".join(request.headers.getlist("accept")))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        async with one_at_a_time:
            if before is not None:
                await before()
            content = await metrics.render_in_slices(openmetrics="openmetrics" in content_type)
        if accepts_gzip(",".join(request.headers.getlist("accept-encoding"))):
            headers["Content-Encoding"] = "gzip"
            content = await asyncio.to_thread(_compress, content)
        return Response(content, headers=headers)

    return routes


def _compress(content: bytes) -> bytes:
    return zlib.compress(content, _LEVEL, _GZIP)
