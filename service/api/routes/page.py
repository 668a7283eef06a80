"""GET /: the page for browsers, and links for other clients. No other host, no inline code."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from tidegate.service.api.accept import prefers
from tidegate.service.api.bodies import as_json
from tidegate.service.api.schemas import Body

FOLDER = Path(__file__).parents[1] / "page"
INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Narrower than 'self' for everything: nothing here needs frames, fonts, plugins or forms.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_SAFE = {
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE_ONLY = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
}
LINKS = {
    "classify": "classify",
    "models": "models",
    "drift": "drift",
    "metrics": "metrics",
    "ready": "readyz",
    "openapi": "openapi.json",
}


class AliveBody(Body):
    """What a client gets that is no browser."""

    status: str = Field(examples=["alive"])
    links: dict[str, str] = Field(description="paths relative to this one")


@dataclass(frozen=True, slots=True)
class File:
    """One file of the page."""

    media_type: str
    content: bytes
    compressed: bytes
    etag: str

    @classmethod
    def read(cls, path: Path) -> File:
        """Read a file. Its tag changes with its content."""
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:32]
        compressed = gzip.compress(content, mtime=0)
        return cls(_TYPES[path.suffix], content, compressed, f'"{digest}"')

    def response(self, request: Request, headers: dict[str, str]) -> Response:
        """Return the file, or 304 if the client has it. Clients ask each time."""
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", **_SAFE, **headers}
        if self.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = self.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content, headers["Content-Encoding"] = self.compressed, "gzip"
        return Response(
            content, media_type=None, headers={"Content-Type": self.media_type} | headers
        )


def read_files() -> dict[str, File]:
    """Return the files of the page by name."""
    return {path.name: File.read(path) for path in FOLDER.iterdir() if path.suffix in _TYPES}


def router(*, with_page: bool) -> APIRouter:
    """Return the routes of the page. Without it, browsers get the same links as others."""
    routes = APIRouter(tags=["page"])
    files = read_files() if with_page else {}

    @routes.get(
        "/",
        summary="The page; or links, for clients that do not ask for HTML",
        response_model=AliveBody,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def root(request: Request) -> Response:
        if files and prefers(request.headers.get("accept", ""), "text/html", "application/json"):
            return files[INDEX].response(request, {"Vary": "Accept, Accept-Encoding", **_PAGE_ONLY})
        body = as_json({"status": "alive", "links": LINKS})
        return Response(body, media_type="application/json", headers={"Vary": "Accept"})

    @routes.get("/page/{file}", include_in_schema=False)
    async def file_of_the_page(request: Request, file: str) -> Response:
        found = files.get(file)
        if found is None or file == INDEX:
            raise HTTPException(404)
        return found.response(request, {"Vary": "Accept-Encoding"})

    return routes
