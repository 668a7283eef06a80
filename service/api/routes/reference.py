"""GET /openapi.json and GET /docs: the interface, for programs and for people."""

from __future__ import annotations

from functools import lru_cache

from fastapi import APIRouter, FastAPI, Request, Response
from pydantic_core import to_json

from tidegate.service.api import reference_page
from tidegate.service.api.openapi import describe
from tidegate.service.api.root_path import prefix_of

_PREFIXES_KEPT = 16


def router(app: FastAPI, root_path: str) -> APIRouter:
    """Return the routes that describe the other routes of `app`."""
    routes = APIRouter(include_in_schema=False)

    @lru_cache(_PREFIXES_KEPT)
    def document(prefix: str) -> bytes:
        described = describe(app)
        return to_json(described | {"servers": [{"url": prefix}]} if prefix else described)

    @lru_cache(1)
    def page() -> str:
        return reference_page.render(describe(app))

    @routes.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        prefix = prefix_of(root_path, request.headers.get("x-forwarded-prefix", ""))
        return Response(
            document(prefix),
            media_type="application/json",
            headers={"Vary": "X-Forwarded-Prefix"},  # so that no cache gives it to others
        )

    @routes.get("/docs")
    async def docs() -> Response:
        headers = {
            "Content-Security-Policy": reference_page.POLICY,
        }
        return Response(page(), media_type="text/html", headers=headers)

    return routes
