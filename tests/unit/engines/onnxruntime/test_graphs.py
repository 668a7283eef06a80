"""The thread and the sessions of ONNX Runtime's graphs, on a fake session."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fake_cuda import FakeDevice
from tidegate.service.engines.cuda.base import Address, StreamHandle
from tidegate.service.engines.onnxruntime.graphs import OnnxGraph, OnnxGraphs

NOWHERE, STREAM = Address(0), StreamHandle(0)


class FakeSession:
    """A session that records the thread and the graph's number of each run, one at a time."""

    runs: list[tuple[str, str]]

    def __init__(self, runs: list[tuple[str, str]]) -> None:
        self.runs = runs
        self._running = threading.Lock()

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        assert self._running.acquire(blocking=False), "two runs at once"
        number = options.get_run_config_entry("gpu_graph_id")
        self.runs.append((threading.current_thread().name, number))
        self._running.release()


@pytest.fixture
def runs() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def opened() -> list[weakref.ref[FakeSession]]:
    """The sessions that were opened, which the graphs own."""
    return []


@pytest.fixture
def graphs(runs: list[tuple[str, str]], opened: list[weakref.ref[FakeSession]]) -> OnnxGraphs:
    def open_session() -> FakeSession:
        session = FakeSession(runs)
        opened.append(weakref.ref(session))
        return session

    def bind(
        session: Any, batch: int, pixels: Address, outputs: Mapping[str, Address]
    ) -> tuple[int, Address]:
        return batch, pixels

    return OnnxGraphs(open_session, bind)


def run(graph: OnnxGraph, batch: int) -> None:
    graph.enqueue(batch, NOWHERE, {}, STREAM)


def test_all_graphs_run_on_one_thread_one_after_the_other(
    graphs: OnnxGraphs, runs: list[tuple[str, str]]
) -> None:
    device = FakeDevice()
    slots = [graphs.graph(device) for _ in range(3)]

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda turn: run(slots[turn % 3], 4), range(60)))

    assert len({thread for thread, _ in runs}) == 1
    assert {number for _, number in runs} == {"1", "2", "3"}  # a graph for each slot


def test_a_batch_size_has_a_session_until_its_last_graph_is_closed(
    graphs: OnnxGraphs, opened: list[weakref.ref[FakeSession]]
) -> None:
    device = FakeDevice()
    small, other, large = (graphs.graph(device) for _ in range(3))
    run(small, 1)
    run(other, 1)
    run(large, 8)
    assert len(opened) == 2

    small.close()
    assert opened[0]() is not None
    other.close()

    assert opened[0]() is None
    assert opened[1]() is not None


def test_an_error_reaches_the_slot(graphs: OnnxGraphs, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(session: FakeSession, binding: Any, options: Any) -> None:
        raise RuntimeError("no capture")

    monkeypatch.setattr(FakeSession, "run_with_iobinding", broken)

    with pytest.raises(RuntimeError, match="no capture"):
        run(graphs.graph(FakeDevice()), 1)
