"""What a dialect is, and the ASGI layer that gives its paths their error form and short cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.service.api import problems
from tidegate.service.api.connection import ClientGone
from tidegate.service.api.context import ErrorForm, RequestContext
from tidegate.service.api.intake import ImageFailed, Intake
from tidegate.service.errors import TidegateError
from tidegate.service.platforms import Facts

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a dialect is built from."""

    intake: Intake
    ood_action: Literal["reject", "flag"]  # of images that the gate rejects
    version: str  # of Tidegate
    facts: Facts = field(default_factory=Facts)  # what the platform says


@dataclass(frozen=True, slots=True)
class ShortCut:
    """A POST route that is answered without the framework's routing."""

    route: str  # the pattern, for the metrics and the log
    handle: Handler


@dataclass(frozen=True, slots=True)
class Dialect:
    """One protocol: its routes, and what is different about its errors.

    `router` has every route, for the framework and for OpenAPI. Every failure on a path that is, or
    is below, one of `prefixes` is rendered by `error_form`, also one that no handler saw.
    `short_cut` returns the handler of a POST path that must be fast; None for the other paths.
    """

    name: str
    prefixes: tuple[str, ...]
    error_form: ErrorForm
    router: APIRouter
    classifying: tuple[str, ...]  # the patterns that answer images
    short_cut: Callable[[str], ShortCut | None] = lambda path: None

    @property
    def routes(self) -> tuple[str, ...]:
        """Return the pattern of every route, each once."""
        paths = (route.path_format for route in self.router.routes if isinstance(route, APIRoute))
        return tuple(dict.fromkeys(paths))


class Dialects:
    """Hands requests to the framework, with the error form of their path."""

    def __init__(self, app: ASGIApp, dialects: Sequence[Dialect]) -> None:
        self._app = app
        self._dialects = [
            (dialect, frozenset(dialect.prefixes), tuple(f"{one}/" for one in dialect.prefixes))
            for dialect in dialects
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        dialect = self._owner(scope["path"]) if scope["type"] == "http" else None
        if dialect is None:
            await self._app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        context.error_form = dialect.error_form
        short = dialect.short_cut(scope["path"]) if scope["method"] == "POST" else None
        if short is None:
            await self._app(scope, receive, send)
            return
        context.route = short.route
        try:
            response = await short.handle(Request(scope, receive))
        except (TidegateError, ClientGone) as error:
            response = problems.response_to(error, context)
        await response(scope, receive, send)

    def error_form_of(self, path: str) -> ErrorForm | None:
        """Return the error form of a path; None if it belongs to no dialect."""
        dialect = self._owner(path)
        return None if dialect is None else dialect.error_form

    def _owner(self, path: str) -> Dialect | None:
        for dialect, prefixes, folders in self._dialects:
            if path in prefixes or path.startswith(folders):
                return dialect
        return None


def failed_image(failed: ImageFailed, context: RequestContext) -> Response:
    """Return the response to a request of several images of which one failed.

    Raises the image's error if it is a bug.
    """
    problem, retry_after_s = problem_of_image(failed, context)
    return problems.respond(problem, context, retry_after_s)


def problem_of_image(
    failed: ImageFailed, context: RequestContext
) -> tuple[problems.ProblemBody, float | None]:
    """Return the problem of the image, which is its member `image`, and when to try again.

    Images are counted from 0. Raises the image's error if it is a bug.
    """
    error = failed.error
    if not isinstance(error, TidegateError):
        raise error
    problem = problems.problem_of(error, context) | {"image": failed.index}
    context.log["code"] = problem["code"]
    return problem, error.retry_after_s
