"""The composition root: build the service from its settings, run it, and return an exit code."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from starlette.types import ASGIApp

from tidegate.service import addresses, logs, memory, platforms, security, unix_socket
from tidegate.service.api.crowd import Connections
from tidegate.service.api.dialects.v2.rpc.start import start_rpc
from tidegate.service.api.server import Server, config_of, whole_seconds
from tidegate.service.api.wire import Wire
from tidegate.service.cpu import usable_cores
from tidegate.service.descriptors import ConnectionLimits, use_all_descriptors
from tidegate.service.drift import state
from tidegate.service.errors import SettingsInvalid, StartupError
from tidegate.service.fronts.fleet import Fleet
from tidegate.service.fronts.shared import SharedTable
from tidegate.service.fronts.shares import front_ends_for
from tidegate.service.imaging.decode import bound_pillow
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.road import Road, make_wire, version
from tidegate.service.settings import Settings
from tidegate.service.tracing.request import Tracer
from tidegate.service.tracing.start import Tracing, start_tracing

log = logging.getLogger(__name__)

EXIT_OK, EXIT_REFUSED, EXIT_FAILED = 0, 1, 70
_FLUSH_TRACES_S = 5.0
_EXECUTOR_EXTRA = 4  # as in asyncio's default executor, which counts the cores of the host


def build(
    settings: Settings,
    lines: logs.LineQueue | None = None,
    metrics: Metrics | None = None,
    tracer: Tracer | None = None,
    admin_port: int | None = None,
    guard: security.Security | None = None,
    before_scrape: Callable[[], Awaitable[None]] | None = None,
) -> tuple[ASGIApp, Service, Wire]:
    """Create the service's objects without starting them.

    If `lines` is given, the log lines that it drops are counted in the metrics. `admin_port` is
    the one that is listened on. `guard` is needed if front ends share it, and `before_scrape`
    gathers what they have counted. Raises SettingsInvalid if a file cannot be used.
    """
    metrics = metrics or Metrics(version())
    if lines is not None:
        lines.report_drops_to(metrics.log_lines_dropped.inc)
    guard = guard or security.build(settings, metrics, admin_port)
    service = Service(settings.service_config(), metrics, guard.clients.weight_of, guard.followed)
    road = Road(settings, service, metrics, guard)
    road.add_others(before_scrape)
    limits = _connection_limits(settings)
    connections = Connections(limits.per_client, limits.in_all)
    wire = make_wire(settings, metrics, guard, connections)
    return road.finish(tracer), service, wire


def _connection_limits(settings: Settings) -> ConnectionLimits:
    with_rpc = settings.grpc_port is not None
    return ConnectionLimits.of(settings.max_client_connections, with_rpc=with_rpc)


def run(settings: Settings) -> NoReturn:
    """Serve until a stop signal or a failure, then end the process with its exit code.

    Raises SettingsInvalid if an address cannot be listened on or the drift state cannot be saved.
    """
    lines = logs.configure(settings.log_level, settings.log_format)
    if settings.profile is not None:
        log.info("using the defaults of the profile %s", settings.profile)
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
    fleet = _fleet(settings, listeners, admin_port, metrics)
    quotas = None if fleet is None else fleet.shared
    guard = security.build(settings, metrics, admin_port, quotas)
    app, service, wire = build(
        settings,
        lines,
        metrics,
        tracing,
        admin_port,
        guard,
        None if fleet is None else fleet.count_all,
    )
    server = Server(config_of(app, settings.drain_timeout_s), wire)
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
    if fleet is not None:
        lines.share()
        service.attach_front_ends(fleet.follow, fleet.load_files, lambda: fleet.unready_reason)
        await fleet.start(service, app, wire, guard)
    own = admin_listeners if fleet is not None else [*listeners, *admin_listeners]
    serving = asyncio.create_task(server.serve(own))
    serving.add_done_callback(partial(_report_death, server, service))
    for listener in listeners:
        log.info("listening on %s", addresses.url_of(listener, wire.tls is not None))
    for listener in admin_listeners:
        log.info("operators' routes are on %s", addresses.url_of(listener, wire.tls is not None))
    security.warn_if_exposed(settings, listeners)

    def begin_drain() -> None:
        server.begin_drain()
        if fleet is not None:
            fleet.begin_drain()

    code = await _live(service, signals, settings.drain_delay_s, begin_drain)
    server.should_exit = True
    if code != EXIT_FAILED:
        deadline = time.monotonic() + settings.drain_timeout_s
        ending: list[Awaitable[None]] = [serving, stop_rpc(settings.drain_timeout_s)]
        if fleet is not None:
            ending.append(fleet.stop(settings.drain_timeout_s))
        stopping = asyncio.gather(*ending)
        code = await _finish(service, stopping, settings.drain_timeout_s) or code
        await _flush(tracing, deadline)
    log.info("stopped")
    return code


def _fleet(
    settings: Settings, listeners: list[socket.socket], admin_port: int | None, metrics: Metrics
) -> Fleet | None:
    """Return the front ends, which are not started; None if this process answers by itself."""
    has_gpu = settings.engine != "onnx-cpu" and any(Path("/dev").glob("nvidia[0-9]*"))
    count = front_ends_for(settings.front_ends, usable_cores(), has_gpu=has_gpu)
    if not count:
        return None
    if sys.platform != "linux":
        raise SettingsInvalid("TIDEGATE_FRONT_ENDS needs Linux: set it to -1.")
    use_all_descriptors()
    return Fleet(settings, count, listeners, admin_port, metrics, SharedTable.create(count + 1))


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
        memory.collect_rarely()
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
    left_s = whole_seconds(timeout_s) + 1
    await asyncio.wait({serving, failed}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        return EXIT_FAILED
    ended = await service.close(max(1.0, deadline - time.monotonic()))
    return EXIT_OK if ended else EXIT_FAILED


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
