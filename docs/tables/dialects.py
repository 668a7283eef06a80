"""The routes of the dialects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastapi.routing import APIRoute

from docs.tables.markdown import table
from tidegate.service.api.dialects import catalogue, names
from tidegate.service.api.dialects.base import Parts
from tidegate.service.settings import Settings


def dialect_routes() -> str:
    """Return a row for each route of each dialect."""
    rows = [
        (f"`{name}`", f"`{method} {route.path_format}`", route.summary or "")
        for name in names.NAMES
        for route in _routes_of(name)
        for method in sorted(route.methods or ())
        if route.include_in_schema
    ]
    return table(("dialect", "route", "purpose"), rows)


def _routes_of(name: str) -> list[APIRoute]:
    limits = Settings().http_limits()
    intake: Any = SimpleNamespace(limits=limits, service=None)  # only used by requests
    [dialect] = catalogue.build([name], Parts(intake, "reject", ""))
    return [route for route in dialect.router.routes if isinstance(route, APIRoute)]
