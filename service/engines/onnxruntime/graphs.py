"""ONNX Runtime's own CUDA graphs.

It replays a graph without asking its memory arena: what one graph writes, another graph of the
session, or any session of the same arena, may be using. So the sessions with graphs have an arena
each, and all graphs of a program are captured and replayed on one thread, one after the other.
Graphs belong to the thread that captured them, so this thread also outlives the warm-up.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from weakref import WeakValueDictionary

from tidegate.service.engines.cuda.base import Address, Device, StreamHandle
from tidegate.service.engines.onnxruntime.session import load_runtime

Bind = Callable[[Any, int, Address, Mapping[str, Address]], Any]  # a session's bindings


class OnnxGraphs:
    """All graphs of a program: a session for each batch size, and the thread that runs them."""

    def __init__(self, open_session: Callable[[], Any], bind: Bind) -> None:
        """Capture graphs of the sessions that `open_session` returns, with `bind`'s bindings."""
        self._open_session = open_session
        self.bind = bind
        self._sessions: WeakValueDictionary[int, Any] = WeakValueDictionary()
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1, "graphs")

    def graph(self, device: Device) -> OnnxGraph:
        """Return a graph that is not captured yet, for one slot and one batch size."""
        return OnnxGraph(self, device, next(self._numbers))

    def session(self, batch: int) -> Any:
        """Return the session of a batch size, which lives as long as a graph uses it."""
        session = self._sessions.get(batch)
        if session is None:
            session = self._sessions[batch] = self._open_session()
        return session

    def run(self, device: Device, work: Callable[[], None]) -> None:
        """Run `work` on the graphs' thread, and wait for it."""

        def on_thread() -> None:
            device.use()
            work()

        self._thread.submit(on_thread).result()


class OnnxGraph:
    """The graph of one slot's batches of one size."""

    def __init__(self, graphs: OnnxGraphs, device: Device, number: int) -> None:
        self._graphs = graphs
        self._device = device
        # A graph is found by its number, whatever the shape and the addresses are.
        self._options = load_runtime().RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(number))
        self._bound: tuple[Any, Any] | None = None  # session, bindings

    def enqueue(
        self, batch: int, pixels: Address, outputs: Mapping[str, Address], stream: StreamHandle
    ) -> None:
        """Replay the graph; return when the batch is computed."""

        def replay() -> None:
            if self._bound is None:
                session = self._graphs.session(batch)
                self._bound = session, self._graphs.bind(session, batch, pixels, outputs)
            session, binding = self._bound
            session.run_with_iobinding(binding, self._options)

        self._graphs.run(self._device, replay)

    def close(self) -> None:
        """Release the session; with the last graph of a batch size its memory is freed."""

        def release() -> None:
            self._bound = None

        self._graphs.run(self._device, release)
