"""The routes of a process and the layers around them.

A front end has only those that classify: `add_others` adds what needs the state of the service.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from tidegate.service.api import problems
from tidegate.service.api.access_log import AccessLog
from tidegate.service.api.classify_handler import ClassifyHandler
from tidegate.service.api.context_middleware import ContextMiddleware
from tidegate.service.api.cors import allow_origins
from tidegate.service.api.crowd import Connections
from tidegate.service.api.dialects import catalogue
from tidegate.service.api.dialects.base import Dialects, Parts
from tidegate.service.api.dialects.v2.rpc.start import rpc_dialect
from tidegate.service.api.guard import Guard
from tidegate.service.api.html_headers import HtmlHeaders
from tidegate.service.api.intake import Intake
from tidegate.service.api.methods import Methods
from tidegate.service.api.openapi_access import describe_access
from tidegate.service.api.root_path import RootPath
from tidegate.service.api.routes import (
    admin,
    calibration,
    classify,
    feedback,
    inspection,
    operations,
    page,
    reference,
)
from tidegate.service.api.routes import metrics as metrics_route
from tidegate.service.api.uploads import ByteBudget
from tidegate.service.api.wire import Wire
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.security import Security
from tidegate.service.settings import Settings
from tidegate.service.tracing.request import Tracer

_BODY_STALL_S = 30  # added to the upload timeout, so that its 408 comes first


def version() -> str:
    """Return the installed version of Tidegate."""
    return importlib.metadata.version("tidegate")


class Road:
    """What answers the requests of one process."""

    def __init__(
        self, settings: Settings, service: Service, metrics: Metrics, guard: Security
    ) -> None:
        """Create the routes that classify."""
        self._settings = settings
        self._service = service
        self._metrics = metrics
        self._guard = guard
        self._app = FastAPI(
            title="Tidegate",
            version=version(),
            summary="Image classification that rejects out-of-distribution images.",
            redirect_slashes=False,  # one path per route, so that proxy rules match it
            openapi_url=None,  # routes/reference.py, because the framework's pages need other hosts
        )
        self._limits = limits = settings.http_limits()
        self._budget = ByteBudget(
            limits.max_inflight_bytes,
            limits.max_upload_bytes,
            lambda: metrics.shed("upload-bytes"),
            weight_of=guard.clients.weight_of,
        )
        intake = Intake(service, limits, self._budget, metrics, guard.quota, guard.audit)
        self._handler = ClassifyHandler(intake, settings.ood_action)
        parts = Parts(intake, settings.ood_action, version(), settings.platform_facts())
        self._dialects = catalogue.build(settings.dialect_names(), parts)
        if settings.grpc_port is not None:
            self._dialects.append(rpc_dialect(parts))
        routers = [
            classify.router(self._handler),
            inspection.router(intake, settings.ood_action),
        ]
        #: The patterns of the routes that run the network.
        self.classifying = [
            *(r.path_format for one in routers for r in one.routes if isinstance(r, APIRoute)),
            *(route for dialect in self._dialects for route in dialect.classifying),
        ]
        for router in (*routers, *(dialect.router for dialect in self._dialects)):
            self._app.include_router(router)
        for dialect in self._dialects:
            metrics.serve_routes(dialect.routes, dialect.classifying)
        self._app.include_router(operations.probes(service))

    def add_others(self, before_scrape: Callable[[], Awaitable[None]] | None = None) -> None:
        """Add the other routes. `before_scrape` is awaited before each scrape of the metrics."""
        app, service = self._app, self._service
        app.include_router(feedback.router(service, self._limits, self._budget, self._guard.audit))
        app.include_router(operations.models(service))
        app.include_router(calibration.router(service))
        app.include_router(page.router(with_page=self._settings.page == "on"))
        app.include_router(admin.router(service))
        app.include_router(metrics_route.router(self._metrics, before_scrape))
        app.include_router(reference.router(app, self._settings.root_path))
        if self._settings.keys is not None:
            describe_access(app)

    def finish(self, tracer: Tracer | None) -> ASGIApp:
        """Return the app of all layers."""
        metrics, guard, settings = self._metrics, self._guard, self._settings
        problems.install(self._app)
        spoken = Dialects(HtmlHeaders(Methods(self._app)), self._dialects)
        guarded = Guard(spoken, guard.access, metrics.routes, spoken.error_form_of)
        fast: ASGIApp = classify.FastPath(guarded, self._handler, guard.access)
        if origins := settings.origins():
            fast = allow_origins(fast, origins)
        access_log = AccessLog(settings.log_share, metrics.log_lines_left_out.inc)
        road: ASGIApp = ContextMiddleware(
            fast, metrics, problems.response_to_unexpected_error, access_log, tracer
        )
        return RootPath(road, settings.root_path) if settings.root_path else road


def make_wire(
    settings: Settings, metrics: Metrics, guard: Security, connections: Connections
) -> Wire:
    """Return what the connections of a process share."""
    return Wire(
        on_refused=lambda route, status: metrics.request(route, status, 0.0),
        on_shed=lambda: metrics.shed("client-connections"),
        keep_alive_s=settings.keep_alive_s,
        body_stall_s=settings.upload_timeout_s + _BODY_STALL_S,
        connections=connections,
        proxies=guard.proxies,
        tls=guard.tls,
    )
