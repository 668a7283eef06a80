"""Which pages of other origins may use the service from a browser (CORS)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

ALLOWED_HEADERS = (
    "authorization",
    "content-type",
    "traceparent",
    "x-api-key",
    "x-canary-key",
    "x-request-id",
    "x-request-timeout-ms",
    "x-tidegate-version",
)
EXPOSED_HEADERS = (
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "server-timing",
    "traceparent",
    "www-authenticate",
    "x-request-id",
)
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")
_MAX_AGE_S = 600


def parse_origins(text: str) -> tuple[str, ...]:
    """Return the origins of a comma-separated list, or "*". Raises ValueError."""
    origins = tuple(word.strip() for word in text.split(","))
    if origins == ("*",):
        return origins
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"{origin!r} is not an origin: scheme, host and port as a browser sends them, "
                "for example https://app.example.com"
            )
    return origins


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return an app that answers preflights and lets these origins read the responses.

    Cookies are never allowed: a page needs a key of its own.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST"),
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        max_age=_MAX_AGE_S,
    )
