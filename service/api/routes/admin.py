"""/admin: reload, promote and roll back. `api/access.py` requires the scope `admin`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from tidegate.service.api.problems import MEDIA_TYPE, PROBLEM_REF
from tidegate.service.api.routes.rollout import EventBody, event_body
from tidegate.service.api.schemas import Body
from tidegate.service.errors import ReloadRefused, StartupError
from tidegate.service.lifecycle import Service

OPERATOR = "operator"
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"description": "unauthorized", **_PROBLEM},
    403: {"description": "forbidden: no scope `admin`, or no key has it", **_PROBLEM},
    422: {"description": "reload-refused: what was served is still served", **_PROBLEM},
    503: {"description": "draining · not-ready", **_PROBLEM},
}


class ReloadedBody(Body):
    """What a reload did with one model."""

    name: str
    outcome: Literal["loaded", "unchanged", "refused", "unloaded"]
    detail: str


class ReloadBody(Body):
    """What a reload did."""

    models: list[ReloadedBody] = Field(description="by name")


def router(service: Service) -> APIRouter:
    """Return the routes for administrators."""
    routes = APIRouter(tags=["admin"], prefix="/admin")
    refusals = _RESPONSES | {404: {"description": "not-found: no such model", **_PROBLEM}}

    @routes.post(
        "/reload",
        summary="Serve what the serving file says now",
        responses=_RESPONSES,
    )
    async def reload() -> ReloadBody:
        """Returns once every version is loaded, or one is refused. Other requests do not wait."""
        with _refusing():
            done = await service.reload()
        if refused := [one.detail for one in done.values() if one.outcome == "refused"]:
            raise ReloadRefused("\n".join(refused))
        return ReloadBody(
            models=[
                ReloadedBody(name=name, outcome=one.outcome, detail=one.detail)
                for name, one in sorted(done.items())
            ]
        )

    @routes.post("/models/{name}/promote", summary="Make the canary stable", responses=refusals)
    async def promote(name: str, alias: Literal["canary", "shadow"] = "canary") -> EventBody:
        """With `alias=shadow`, make the shadow the canary. The serving file is changed."""
        with _refusing():
            return event_body(await service.require_steps().promote(name, alias, OPERATOR))

    @routes.post("/models/{name}/rollback", summary="Go back", responses=refusals)
    async def roll_back(name: str) -> EventBody:
        """End the canary; without one, make the version before stable again."""
        with _refusing():
            return event_body(await service.require_steps().roll_back(name, OPERATOR))

    return routes


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what is wrong with the serving file or a bundle into a problem for the client."""
    try:
        yield
    except StartupError as error:
        raise ReloadRefused(str(error)) from error
