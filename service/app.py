"""The composition root: build the service from its settings, run it, and return an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib.metadata
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from tidegate.service import addresses, logs, memory, platforms, security, unix_socket
from tidegate.service.api import problems
from tidegate.service.api.access_log import AccessLog
from tidegate.service.api.classify_handler import ClassifyHandler
from tidegate.service.api.context import ContextMiddleware
from tidegate.service.api.cors import allow_origins
from tidegate.service.api.crowd import Connections
from tidegate.service.api.dialects import catalogue
from tidegate.service.api.dialects.base import Dialects, Parts
from tidegate.service.api.dialects.v2.rpc.start import rpc_dialect, start_rpc
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
from tidegate.service.api.server import Server
from tidegate.service.api.uploads import ByteBudget
from tidegate.service.api.wire import Wire
from tidegate.service.cpu import usable_cores
from tidegate.service.descriptors import ConnectionLimits
from tidegate.service.drift import state
from tidegate.service.errors import SettingsInvalid, StartupError
from tidegate.service.imaging.decode import bound_pillow
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.settings import Settings
from tidegate.service.tracing.request import Tracer
from tidegate.service.tracing.start import Tracing, start_tracing

log = logging.getLogger(__name__)

EXIT_OK, EXIT_REFUSED, EXIT_FAILED = 0, 1, 70
_BODY_STALL_S = 30  # added to the upload timeout, so that its 408 comes first
_FLUSH_TRACES_S = 5.0
_EXECUTOR_EXTRA = 4  # as in asyncio's default executor, which counts the cores of the host


def version() -> str:
    """Return the installed version of Tidegate."""
    return importlib.metadata.version("tidegate")


def build(
    settings: Settings,
    lines: logs.LineQueue | None = None,
    metrics: Metrics | None = None,
    tracer: Tracer | None = None,
    admin_port: int | None = None,
) -> tuple[ASGIApp, Service, Wire]:
    """Create the service's objects without starting them.

    If `lines` is given, the log lines that it drops are counted in the metrics. `admin_port` is
    the one that is listened on. Raises SettingsInvalid if a file cannot be used.
    """
    metrics = metrics or Metrics(version())
    if lines is not None:
        lines.report_drops_to(metrics.log_lines_dropped.inc)
    guard = security.build(settings, metrics, admin_port)
    service = Service(settings.service_config(), metrics, guard.clients.weight_of, guard.followed)
    app = FastAPI(
        title="Tidegate",
        version=version(),
        summary="Image classification that rejects out-of-distribution images.",
        redirect_slashes=False,  # one path per route, so that proxy rules match it
        openapi_url=None,  # routes/reference.py, because the framework's pages need other hosts
    )
    limits = settings.http_limits()
    budget = ByteBudget(
        limits.max_inflight_bytes,
        limits.max_upload_bytes,
        lambda: metrics.shed("upload-bytes"),
        weight_of=guard.clients.weight_of,
    )
    intake = Intake(service, limits, budget, metrics, guard.quota, guard.audit)
    handler = ClassifyHandler(intake, settings.ood_action)
    parts = Parts(intake, settings.ood_action, version(), settings.platform_facts())
    dialects = catalogue.build(settings.dialect_names(), parts)
    if settings.grpc_port is not None:
        dialects.append(rpc_dialect(parts))
    app.include_router(classify.router(handler))
    app.include_router(inspection.router(intake, settings.ood_action))
    for dialect in dialects:
        app.include_router(dialect.router)
        metrics.serve_routes(dialect.routes, dialect.classifying)
    app.include_router(feedback.router(service, limits, budget, guard.audit))
    app.include_router(operations.models(service))
    app.include_router(calibration.router(service))
    app.include_router(page.router(with_page=settings.page == "on"))
    app.include_router(admin.router(service))
    app.include_router(operations.probes(service))
    app.include_router(metrics_route.router(metrics))
    app.include_router(reference.router(app, settings.root_path))
    if settings.keys is not None:
        describe_access(app)
    problems.install(app)
    spoken = Dialects(HtmlHeaders(Methods(app)), dialects)
    guarded = Guard(spoken, guard.access, metrics.routes, spoken.error_form_of)
    fast: ASGIApp = classify.FastPath(guarded, handler, guard.access)
    if origins := settings.origins():
        fast = allow_origins(fast, origins)
    wire = Wire(
        on_refused=lambda route, status: metrics.request(route, status, 0.0),
        on_shed=lambda: metrics.shed("client-connections"),
        keep_alive_s=settings.keep_alive_s,
        body_stall_s=settings.upload_timeout_s + _BODY_STALL_S,
        connections=_connections(_connection_limits(settings)),
        proxies=guard.proxies,
        tls=guard.tls,
    )
    access_log = AccessLog(settings.log_share, metrics.log_lines_left_out.inc)
    road: ASGIApp = ContextMiddleware(
        fast, metrics, problems.response_to_unexpected_error, access_log, tracer
    )
    if settings.root_path:
        road = RootPath(road, settings.root_path)
    return road, service, wire


def _connections(limits: ConnectionLimits) -> Connections:
    return Connections(limits.per_client, limits.in_all)


def _connection_limits(settings: Settings) -> ConnectionLimits:
    with_rpc = settings.grpc_port is not None
    return ConnectionLimits.of(settings.max_client_connections, with_rpc=with_rpc)


def run(settings: Settings) -> NoReturn:
    """Serve until a stop signal or a failure, then end the process with its exit code.

    Raises SettingsInvalid if an address cannot be listened on or the drift state cannot be saved.
    """
    lines = logs.configure(settings.log_level, settings.log_format)
    if settings.platform is None and (looks_like := platforms.hint(os.environ)):
        log.info("%s", looks_like)
    _dump_stacks_on_sigusr1()
    memory.give_back_large_blocks()
    memory.limit_arenas(max(2, usable_cores()))
    bound_pillow(settings.max_image_pixels)
    if settings.drift_state is not None:
        state.check_path(settings.drift_state)
    listeners, admin = _listen(settings), _listen_for_operators(settings)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(_serve(settings, listeners, admin, lines))
        logging.shutdown()  # waits at most a second for the last lines
        # Do not wait for threads: a decoder, a warm-up or a hung engine may be running C code.
        os._exit(code)


def _dump_stacks_on_sigusr1() -> None:
    """Let SIGUSR1 write the stacks of all threads to stderr, even if the event loop hangs."""
    if sys.platform != "win32":
        with contextlib.suppress(AttributeError, OSError, ValueError):  # stderr is closed
            faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not on Windows

    return uvloop.Loop


def _listen(settings: Settings) -> list[socket.socket]:
    listeners = _listen_at(settings.hosts(), settings.port)
    path = settings.unix_socket
    if path is not None:
        try:
            listeners.append(unix_socket.listen_unix(path, int(settings.unix_socket_mode, 8)))
        except OSError as error:
            raise SettingsInvalid(f"Cannot listen on {path}: {error.strerror or error}.") from error
    return listeners


def _listen_for_operators(settings: Settings) -> list[socket.socket]:
    return [] if settings.admin_port is None else _listen_at(settings.hosts(), settings.admin_port)


def _listen_at(hosts: Sequence[str], port: int) -> list[socket.socket]:
    try:
        return addresses.listen(hosts, port)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsInvalid(f"Cannot listen on {','.join(hosts)}:{port}: {reason}.") from error


async def _serve(
    settings: Settings,
    listeners: list[socket.socket],
    admin_listeners: list[socket.socket],
    lines: logs.LineQueue,
) -> int:
    metrics = Metrics(version())
    tracing = start_tracing(os.environ, version(), metrics.traced)
    admin_port = admin_listeners[0].getsockname()[1] if admin_listeners else None
    app, service, wire = build(settings, lines, metrics, tracing, admin_port)
    server = Server(
        uvicorn.Config(
            app,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,  # otherwise a client could claim any address
            server_header=False,
            timeout_graceful_shutdown=_whole_seconds(settings.drain_timeout_s),
        ),
        wire,
    )
    asyncio.get_running_loop().set_default_executor(
        ThreadPoolExecutor(usable_cores() + _EXECUTOR_EXTRA, "executor")
    )
    signals = _listen_to_signals()
    _reload_on_hangup(service)
    stop_rpc = await start_rpc(
        app,
        service,
        settings.http_limits(),
        settings.hosts(),
        settings.grpc_port,
        wire,
        _connection_limits(settings).rpc,
    )
    serving = asyncio.create_task(server.serve([*listeners, *admin_listeners]))
    serving.add_done_callback(partial(_report_death, server, service))
    for listener in listeners:
        log.info("listening on %s", addresses.url_of(listener, wire.tls is not None))
    for listener in admin_listeners:
        log.info("operators' routes are on %s", addresses.url_of(listener, wire.tls is not None))
    security.warn_if_exposed(settings, listeners)
    code = await _live(service, signals, settings.drain_delay_s, server.begin_drain)
    server.should_exit = True
    if code != EXIT_FAILED:
        deadline = time.monotonic() + settings.drain_timeout_s
        stopping = asyncio.gather(serving, stop_rpc(settings.drain_timeout_s))
        code = await _finish(service, stopping, settings.drain_timeout_s) or code
        await _flush(tracing, deadline)
    log.info("stopped")
    return code


def _report_death(server: Server, service: Service, serving: asyncio.Task[None]) -> None:
    """End the process if the HTTP server ends before a shutdown was requested."""
    if not server.should_exit:
        error = None if serving.cancelled() else serving.exception()
        log.critical("the HTTP server ended unexpectedly", exc_info=error)
        service.fail("the HTTP server ended unexpectedly")


async def _live(
    service: Service,
    signals: asyncio.Queue[int],
    drain_delay_s: float,
    on_drain: Callable[[], None],
) -> int:
    """Start, serve until a signal, keep serving for the drain delay, and return the exit code."""
    stop = asyncio.create_task(signals.get())
    starting = asyncio.create_task(service.start())
    failed = asyncio.create_task(service.failed.wait())
    await asyncio.wait({stop, starting, failed}, return_when=asyncio.FIRST_COMPLETED)
    if starting.done() and (error := starting.exception()):
        return _exit_code_of(error)
    if failed.done():
        return EXIT_FAILED
    if not stop.done():
        gc.collect()
        gc.freeze()  # the collector does not scan these long-lived objects again
        log.info("ready")
    await asyncio.wait({stop, failed}, return_when=asyncio.FIRST_COMPLETED)
    if not failed.done():
        service.begin_drain()
        on_drain()
        if stop.result() == signal.SIGTERM:
            log.info("draining: serving for %g s, then finishing admitted requests", drain_delay_s)
            await asyncio.wait({failed}, timeout=drain_delay_s)
    return EXIT_FAILED if failed.done() else EXIT_OK


def _exit_code_of(error: BaseException) -> int:
    """Return the exit code for an error during the start."""
    if isinstance(error, StartupError):
        log.error("cannot start: %s", error)
        return EXIT_REFUSED
    log.error("the start failed", exc_info=error)
    return EXIT_FAILED  # a restart may succeed


async def _finish(service: Service, serving: asyncio.Future[Any], timeout_s: float) -> int:
    """Wait until the admitted requests are answered, then close the service; return an exit code.

    `timeout_s` limits both together.
    """
    deadline = time.monotonic() + timeout_s
    failed = asyncio.create_task(service.failed.wait())
    # uvicorn cancels the remaining requests at the deadline; they get one second to respond.
    left_s = _whole_seconds(timeout_s) + 1
    await asyncio.wait({serving, failed}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        return EXIT_FAILED
    ended = await service.close(max(1.0, deadline - time.monotonic()))
    return EXIT_OK if ended else EXIT_FAILED


def _whole_seconds(timeout_s: float) -> int:
    """Return the duration that uvicorn waits for, which it takes in whole seconds."""
    return max(1, round(timeout_s))


async def _flush(tracing: Tracing | None, deadline: float) -> None:
    """Export the last traces within the drain."""
    if tracing is not None:
        left_s = min(max(0.0, deadline - time.monotonic()), _FLUSH_TRACES_S)
        await asyncio.to_thread(tracing.close, left_s)


def _reload_on_hangup(service: Service) -> None:
    if sys.platform != "win32":
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, service.request_reload)


def _listen_to_signals() -> asyncio.Queue[int]:
    """Return a queue that receives the first SIGTERM or SIGINT; a second one ends the process."""
    signals: asyncio.Queue[int] = asyncio.Queue()
    seen: list[int] = []

    def on_signal(number: int) -> None:
        if seen:
            logging.shutdown()
            os._exit(128 + number)
        seen.append(number)
        signals.put_nowait(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return signals
