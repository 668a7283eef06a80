"""The ASGI layer that checks access to every route but POST /classify, which checks it itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from tidegate.service.api import problems
from tidegate.service.api.access import Access
from tidegate.service.api.context import ErrorForm, RequestContext
from tidegate.service.errors import RequestError


class Guard:
    """Answers requests without access before anything else sees them."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        routes: Iterable[str],
        error_form_of: Callable[[str], ErrorForm | None],
    ) -> None:
        """`routes` are the patterns of all routes, `error_form_of` returns the errors of a path."""
        self._app = app
        self._access = access
        self._patterns = [(compile_path(route)[0], route) for route in routes]
        self._error_form_of = error_form_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http" and (refusal := self._refuse(scope)) is not None:
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Scope) -> ASGIApp | None:
        context = RequestContext.of(scope)
        try:
            self._access.admit(scope, context)
        except RequestError as error:
            context.route = self._route_of(scope["path"])
            context.error_form = self._error_form_of(scope["path"])
            return problems.response_to(error, context)
        return None

    def _route_of(self, path: str) -> str | None:
        """Return the pattern of a path, as the router would; None if there is no such route."""
        return next((route for form, route in self._patterns if form.match(path)), None)
