"""POST /admin/reload: read the serving file again. Needs the administrator's token."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import Field

from tidegate.service.api.access import Access
from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF
from tidegate.service.api.schemas import Body
from tidegate.service.errors import ReloadRefused, StartupError
from tidegate.service.lifecycle import Service

_PROBLEM = {"content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}


class ReloadedBody(Body):
    """What a reload did with one model."""

    name: str
    outcome: Literal["loaded", "unchanged", "unloaded"]
    detail: str


class ReloadBody(Body):
    """What a reload did."""

    models: list[ReloadedBody] = Field(description="by name")


def router(service: Service, access: Access) -> APIRouter:
    """Return the routes for administrators."""
    routes = APIRouter(tags=["admin"], prefix="/admin")

    @routes.post(
        "/reload",
        summary="Serve what the serving file says now",
        responses={
            401: {"description": "unauthorized", **_PROBLEM},
            403: {"description": "forbidden: no token is set", **_PROBLEM},
            422: {"description": "reload-refused: what was served is still served", **_PROBLEM},
            503: {"description": "draining · not-ready", **_PROBLEM},
        },
    )
    async def reload(request: Request) -> ReloadBody:
        """Returns once every version is loaded, or one is refused. Other requests do not wait."""
        access.check(request.scope)
        try:
            done = await service.reload()
        except StartupError as error:
            raise ReloadRefused(str(error)) from error
        if refused := [one.detail for one in done.values() if one.outcome == "refused"]:
            raise ReloadRefused("\n".join(refused))
        return ReloadBody(
            models=[
                ReloadedBody(name=name, outcome=one.outcome, detail=one.detail)
                for name, one in sorted(done.items())
            ]
        )

    return routes
