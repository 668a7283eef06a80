"""A front end: it answers HTTP, admits and decodes, and leaves the engine to another process."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

from tidegate.service import logs, memory, security
from tidegate.service.api.server import config_of
from tidegate.service.batching.board import BoardView
from tidegate.service.batching.decoders import Decoders
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.link import Link
from tidegate.service.batching.placement import DecodePlacement
from tidegate.service.batching.records import Kind, Record
from tidegate.service.batching.remote import Remote
from tidegate.service.batching.ring import Ring
from tidegate.service.fronts import handover
from tidegate.service.fronts.arrivals import Arrivals
from tidegate.service.fronts.child import EXIT_LOST, EXIT_OK, LAST_S
from tidegate.service.fronts.front_models import FrontModels, FrontParts
from tidegate.service.fronts.front_observer import Reports
from tidegate.service.fronts.front_server import FrontServer
from tidegate.service.fronts.messages import Channel
from tidegate.service.fronts.published import Hello
from tidegate.service.fronts.relay import KINDS, LocalRoutes, RelayClient
from tidegate.service.fronts.shared import SharedTable
from tidegate.service.imaging.decode import bound_pillow
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.lifecycle import Service
from tidegate.service.metrics import Metrics
from tidegate.service.road import Road, make_wire, version
from tidegate.service.tracing.start import start_tracing

log = logging.getLogger(__name__)

_ALIVE_S = 0.25
_COUNT_S = 1.0
_THREADS = 4  # for whatever blocks, such as drawing a picture


class FrontEnd:
    """One front end. Used on the event loop."""

    def __init__(self, turnover: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrivals = Arrivals(
            turnover,
            self._handle,
            self._take_connection,
            self._report_closed,
            self._lose_link,
            self._fail,
        )
        self._models = FrontModels()
        self._ended = asyncio.Event()
        self._code = EXIT_OK
        self._remote: Remote | None = None
        self._reports: Reports | None = None
        self._link = Link(self._take_records, self._lose_link)
        self._channel = Channel(self._take_message, self._lose)
        self._relay: RelayClient
        self._hello: Hello
        self._metrics: Metrics
        self._guard: security.Security
        self._server: FrontServer
        self._tasks: list[asyncio.Task[None]] = []
        self._is_serving = False
        self._handlers = {
            "hello": self._begin,
            "engine": self._open_engine,
            "ring": self._open_ring,
            "lane": self._open_lane,
            "catalog": self._follow_catalog,
            "change": self._change_lanes,
            "draining": self._drain,
            "files": self._load_files,
            "count": self._count,
            "stop": self._stop,
        }

    async def run(self, records: socket.socket, messages: socket.socket) -> int:
        """Serve until the other process says stop, or is gone; return the exit code."""
        await self._link.open(records)
        await self._channel.open(messages)
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS, "executor"))
        self._arrivals.open()
        self._channel.send("waiting")
        await self._ended.wait()
        return self._code

    # What arrives

    def _take_records(self, records: Iterable[Record]) -> None:
        assert self._remote is not None  # noqa: S101 - nothing is done before it was sent
        self._remote.take(records)

    def _take_message(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        if kind in KINDS:
            self._relay.take(kind, fields, content)
            return
        self._arrivals.take_message(kind, fields, content)

    def _handle(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        self._handlers[kind](fields, content)

    def _take_connection(self, descriptor: int, number: int) -> None:
        self._server.take(descriptor, number)

    # What the other process says

    def _begin(self, _: dict[str, Any], content: bytes) -> None:
        hello: Hello = pickle.loads(content)  # noqa: S301 - from the process that started this one
        self._hello, settings = hello, hello.settings
        lines = logs.configure(settings.log_level, settings.log_format, {"front": hello.index})
        bound_pillow(settings.max_image_pixels)
        self._metrics = Metrics(version())
        lines.share()
        lines.report_drops_to(self._metrics.log_lines_dropped.inc)
        table = SharedTable(hello.shared, hello.front_ends + 1, hello.index)
        self._guard = security.build(settings, self._metrics, hello.admin_port, table, hello.loaded)
        for files in self._guard.followed:
            files.is_logging = False  # the process of the engine reads them first, and logs it
        self._tracing = start_tracing(os.environ, version(), self._metrics.traced)
        # The routes here ask it only for the models.
        service = cast(Service, self._models)
        road = Road(settings, service, self._metrics, self._guard)
        self._relay = RelayClient(self._channel)
        app = LocalRoutes(
            road.finish(self._tracing),
            self._relay,
            road.classifying,
            settings.root_path,
        )
        dealt = handover.DealtConnections(self._report_closed, self._loop.call_soon)
        self._wire = make_wire(settings, self._metrics, self._guard, dealt)
        config = config_of(app, settings.drain_timeout_s)
        self._server = FrontServer(config, self._wire, dealt, self._report_up)
        for work in (
            self._serve(),
            _repeat(partial(self._show_life, table), _ALIVE_S),
            _repeat(self._tidy, _COUNT_S),
        ):
            task = asyncio.create_task(work)
            task.add_done_callback(self._check_end)
            self._tasks.append(task)

    async def _serve(self) -> None:
        """Serve connections until asked to stop; then send what was counted last."""
        self._is_serving = True
        await self._server.serve([])
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close, LAST_S)
        if self._reports is not None:
            self._reports.count()
        self._is_serving = False
        self._link.close()
        self._channel.close()

    def _open_engine(self, fields: dict[str, Any], _: bytes) -> None:
        hello = self._hello
        settings, guard = hello.settings, self._guard
        pool = DecoderPool(1, settings.max_image_pixels, at_once=False)
        large = Decoders(pool.processes, self._fail, name="decode-large", nice=0)
        decoders = Decoders(settings.decode_threads, self._fail)
        places: dict[Lane, int] = {}
        remote = Remote(
            self._link.send,
            BoardView(
                hello.board, hello.index, fields["slots"], places, lambda: remote.images_sent
            ),
            slots=fields["slots"],
            placement=DecodePlacement(decoders, large),
            metrics=self._metrics,
            weight_of=guard.clients.weight_of,
        )
        self._remote = remote
        self._reports = Reports(
            self._channel, remote, self._metrics, places, settings.review_config()
        )
        self._models.begin(
            FrontParts(
                remote,
                self._metrics,
                self._reports,
                pool,
                settings.max_image_pixels,
                settings.max_queue,
                settings.deadline_ms / 1000,
                hello.front_ends,
            )
        )

    def _open_ring(self, fields: dict[str, Any], _: bytes) -> None:
        assert self._remote is not None  # noqa: S101 - the engine is sent first
        ring = Ring(self._arrivals.next_descriptor(), fields["slots"], fields["slot_bytes"])
        ring.close_descriptor()
        self._remote.add_ring(ring)

    def _open_lane(self, _: dict[str, Any], content: bytes) -> None:
        self._models.open(pickle.loads(content))  # noqa: S301 - as above

    def _follow_catalog(self, _: dict[str, Any], content: bytes) -> None:
        self._models.follow(pickle.loads(content))  # noqa: S301 - as above
        self._close_idle_lanes()

    def _change_lanes(self, _: dict[str, Any], content: bytes) -> None:
        self._models.change(pickle.loads(content))  # noqa: S301 - as above

    def _drain(self, _: dict[str, Any], __: bytes) -> None:
        self._server.begin_drain()

    def _load_files(self, _: dict[str, Any], __: bytes) -> None:
        """Load files after the other process has, which waits until their content is settled."""

        def load() -> None:
            for files in self._guard.followed:
                files.poll()
                files.poll()  # a change counts once it is the same in two polls

        self._loop.run_in_executor(None, load)

    def _count(self, fields: dict[str, Any], _: bytes) -> None:
        if self._reports is None:
            self._channel.send("counted", increments=[], waiting=0, **fields)
        else:
            self._reports.count(fields["asked"])

    def _stop(self, _: dict[str, Any], __: bytes) -> None:
        self._server.should_exit = True

    # What this one says

    def _report_up(self) -> None:
        memory.collect_rarely()
        self._channel.send("up")

    def _report_closed(self, number: int) -> None:
        self._link.send(Record(Kind.CLOSED, slot=number))

    async def _show_life(self, table: SharedTable) -> None:
        table.alive_at[self._hello.index] = time.monotonic()

    async def _tidy(self) -> None:
        if self._reports is not None:
            self._reports.count()
        self._close_idle_lanes()

    def _close_idle_lanes(self) -> None:
        for number in self._models.idle():
            self._channel.send("closed", lane=number)

    # The end

    def _fail(self, reason: str) -> None:
        """End at once: a thread has died. The process of the engine starts another front end."""
        logging.shutdown()
        os._exit(EXIT_LOST)

    def _check_end(self, task: asyncio.Task[None]) -> None:
        """End at once if a task has failed."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("a task of a front end has failed", exc_info=error)
            self._fail("a task has failed")

    def _lose_link(self) -> None:
        """End, unless this end was closed after everything was answered: messages may be unsent."""
        if self._is_serving:
            self._lose()

    def _lose(self) -> None:
        """End. If the other process is gone, answer first what is in progress: 503."""
        if not self._is_serving:
            self._ended.set()
            return
        self._is_serving, self._code = False, EXIT_LOST
        if self._remote is not None:
            self._remote.lost()
        self._relay.lost()
        self._loop.call_later(LAST_S, self._ended.set)


async def _repeat(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        await work()
        await asyncio.sleep(every_s)
