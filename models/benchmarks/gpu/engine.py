"""Measure one graph on one engine on the first device; every part opens its own engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from tidegate.models.benchmarks.gpu import measure, parity, road
from tidegate.models.benchmarks.gpu.config import ReportConfig, photographs
from tidegate.models.benchmarks.gpu.parts import Parts
from tidegate.models.data.outputs import MAX_PIXELS
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines.base import EngineInfo
from tidegate.service.engines.choose import buckets_for
from tidegate.service.engines.config import WarmEngine
from tidegate.service.engines.cuda.base import Cuda, Device
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.gpu_program import Program
from tidegate.service.engines.open_gpu import EngineRequest, choose_all_graphs, open_program_for
from tidegate.service.engines.warm_up import measure_batch_sizes
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.types import Outputs, Pixels

_CLIENTS = 256
_SLOTS = 3
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Graph:
    """A sealed graph of a bundle, and the images to run."""

    bundle: Bundle
    precision: str
    model: Path
    pixels: Sequence[Pixels]
    on_the_cpu: Callable[[Path], Outputs]  # a graph's outputs on the CPU for all pixels


def measure_engine(
    config: ReportConfig, parts: Parts, cuda: Cuda, graph: Graph, engine: str, measured: list[Row]
) -> None:
    """Load a graph on an engine, measure it part by part, and add the results to `measured`.

    Raises the runtime's error if the graph does not load.
    """
    name = f"{graph.bundle.manifest.name} in {graph.precision} on {engine}"
    device = cuda.device(config.gpu.devices[0])
    try:
        device.use()
        buckets = buckets_for(config.max_batch_size, graph.bundle.manifest.engine.buckets)
        wanted = EngineRequest(graph.model, engine, buckets, graph.precision)
        started = time.perf_counter()
        program, runtime = open_program_for(wanted, config.gpu, cuda, device)
        loaded_s = time.perf_counter() - started
        where = f"cuda:{device.index} {device.name}"
        info = EngineInfo(engine, runtime, where, graph.precision, 1)
        figures: Row = {
            "bundle": graph.bundle.manifest.name,
            "digest": graph.bundle.digest,
            "info": asdict(info),
            "loaded_s": loaded_s,
        }
        measured.append(figures)
        loaded = _Loaded(config, parts, graph, name, cuda, device, program, info, buckets, figures)
        for what, part in (
            ("numbers", loaded.parity),
            ("latency", loaded.latency),
            ("alternating sizes", loaded.alternating),
            ("overlap", loaded.overlap),
            ("memory", loaded.memory),
            ("slots", loaded.slots),
            ("road", loaded.road),
        ):
            parts.run_on_device(f"{name}, {what}", part)
    finally:
        parts.close(name, device.close)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A program on a device. Each part adds its results to `figures`."""

    config: ReportConfig
    parts: Parts
    graph: Graph
    name: str
    cuda: Cuda
    device: Device
    program: Program
    info: EngineInfo
    buckets: Sequence[int]
    figures: Row

    def parity(self) -> None:
        """Compare with the same graph on the CPU, and with the bundle's own graph there."""
        bundle, on_the_cpu = self.graph.bundle, self.graph.on_the_cpu
        with self._opened(1) as engine:
            got = parity.answers(engine, self.graph.pixels)
        same, sealed = on_the_cpu(self.graph.model), on_the_cpu(bundle.model_path)
        self.figures["parity"] = {
            "against_the_same_graph_on_the_cpu": parity.differences(got, same, bundle.gate),
            "against_the_sealed_graph_on_the_cpu": parity.differences(got, sealed, bundle.gate),
        }

    def latency(self) -> None:
        """Time each batch size, also as a CUDA graph if the engine can capture one."""
        rows: list[Row] = []
        self.figures["buckets"] = rows
        budget = self.config.budget
        with self._opened(1) as engine:
            for images in engine.buckets:
                name = f"{self.name}, batches of {images}"
                row: Row = {"images": images}
                rows.append(row)
                batch = measure.batch_of(self.graph.pixels, images)
                eager = partial(_fill, row, measure.eager, engine, batch, budget)
                self.parts.run_on_device(name, eager)
                if engine.can_capture:
                    as_graph = partial(_fill, row, measure.as_graph, engine, batch, budget)
                    self.parts.run_on_device(f"{name} as a graph", as_graph)

    def alternating(self) -> None:
        """Time neighbouring batch sizes in alternation."""
        rows: list[Row] = []
        self.figures["alternating"] = rows
        with self._opened(1) as engine:
            for pair in pairwise(engine.buckets):
                name = f"{self.name}, batches of {pair[0]} and {pair[1]} in turn"
                row: Row = {"images": pair}
                rows.append(row)
                batches = [measure.batch_of(self.graph.pixels, images) for images in pair]
                in_turn = partial(_fill, row, measure.in_turn, engine, batches, self.config.budget)
                self.parts.run_on_device(name, in_turn)

    def overlap(self) -> None:
        """Compare concurrent batches on all slots with the same number one by one."""
        batches = max(1, self.config.budget.runs // 4)
        with self._opened(_SLOTS) as engine:
            self.figures["overlap"] = measure.overlap(engine, self.graph.pixels, batches)

    def memory(self) -> None:
        """Compare the device memory in use early and late in a long run."""
        budget = self.config.budget
        with self._opened(_SLOTS) as engine:
            self.figures["memory"] = measure.plateau(
                engine, self.device, self.graph.pixels, budget.plateau, budget.plateau_s
            )

    def slots(self) -> None:
        """Compare one, two and three slots with a bare loop around the runtime."""
        budget = self.config.budget
        bare = measure.bare_loop(self.device, self.program, self.buckets[-1], budget.seconds)
        self.figures["slots"] = measure.slots(self._opened, bare, self.graph.pixels, budget)

    def road(self) -> None:
        """Measure the road of images from JPEG bytes and from pixels, without HTTP."""
        figures: Row = {}
        self.figures["road"] = figures
        spec, seconds = self.graph.bundle.manifest.preprocess, 5 * self.config.budget.seconds
        files = [path.read_bytes() for path in photographs(self.config)]
        decode = [partial(preprocess, file, spec, MAX_PIXELS) for file in files]
        ready = [partial(_given, image) for image in self.graph.pixels]
        with self._opened(_SLOTS) as engine:
            figures["graphs"] = choose_all_graphs(engine, engine.buckets)
            warm = WarmEngine(engine, measure_batch_sizes(engine, engine.buckets, stop_early=False))
            figures["from_jpeg"] = road.drive(warm, decode, seconds=seconds, clients=_CLIENTS)
            figures["from_pixels"] = road.drive(
                warm, ready, seconds=seconds, clients=_CLIENTS, decode_threads=1
            )

    @contextmanager
    def _opened(self, slots: int) -> Iterator[DeviceEngine]:
        """Open an engine with its own buffers, which are freed with it."""
        own = self.cuda.device(self.device.index)
        close = own.close
        try:
            engine = DeviceEngine(own, self.program, self.info, slots=slots, buckets=self.buckets)
            close = engine.close
            yield engine
        finally:
            self.parts.close(self.name, close)


def _fill(row: Row, latency: Callable[..., Row], *of: object) -> None:
    row.update(latency(*of))


def _given(image: Pixels) -> Pixels:
    return image
