"""What the tests observe on the stand-ins. Each function returns values for JSON."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tests.gpu_packages.standins.runtime import StandIn
from tidegate.service.engines import warm_up
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.faults import fault_of
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.onnxruntime.gpu import cuda_providers
from tidegate.service.engines.open_gpu import (
    EngineRequest,
    GpuConfig,
    open_gpu_engine,
    open_program_for,
)
from tidegate.service.errors import EngineUnavailable

Counts = dict[str, int]
_TURNS = 3  # the first run of a shape allocates and plans


def nodes(standin: StandIn, model: str) -> dict[str, int]:
    """Return how many nodes each provider runs."""
    cuda = open_cuda("cuda-bindings")
    request = EngineRequest(Path(model), "onnx-cuda", (1,), "fp32")
    program, _ = open_program_for(request, GpuConfig(), cuda, cuda.device(0))
    return dict(Counter(provider for provider, _ in program.nodes))  # type: ignore[attr-defined]


def memory(standin: StandIn, model: str, buckets: Sequence[int]) -> dict[int, int]:
    """Return the bytes of device memory in use after each batch size ran on all slots at once."""
    engine = _opened(model, buckets)
    standin.delay(50)
    used = {}
    for bucket in buckets:
        _on_all_slots(engine, bucket)
        used[bucket] = standin.counts()["live_bytes"]
    return used


def given_up(standin: StandIn, model: str) -> list[int]:
    """Return the bytes in use after batches of 64, and when only batches to 8 are kept."""
    engine = _opened(model, (1, 8, 64))
    used = []
    for bucket in (1, 8, 64):
        _on_all_slots(engine, bucket)
        used.append(standin.counts()["live_bytes"])
    engine.keep(8)
    _on_all_slots(engine, 8)
    return [*used, standin.counts()["live_bytes"]]


def run(standin: StandIn, model: str, batch: int) -> Counts:
    """Return the calls of one batch that was run before."""
    engine = _opened(model, (batch,))
    _on_all_slots(engine, batch)
    return _counted(standin, engine, 0, batch)


def graphs(standin: StandIn, model: str, buckets: Sequence[int]) -> dict[str, Any]:
    """Capture graphs on a thread that ends, and return the calls of that and of later batches."""
    engine = _opened(model, buckets)
    for bucket in buckets:
        _on_all_slots(engine, bucket)
    standin.reset()

    def capture_all() -> None:
        for bucket in buckets:
            engine.capture(bucket)

    warming = threading.Thread(target=capture_all)
    warming.start()
    warming.join()
    captured = standin.counts()
    with ThreadPoolExecutor(engine.slots) as serving:
        replayed = [
            serving.submit(_counted, standin, engine, slot, bucket).result()
            for slot in range(engine.slots)
            for bucket in buckets
        ]
    live = standin.counts()["live_bytes"]
    for bucket in buckets:
        engine.forget(bucket)
    return {
        "can_capture": engine.can_capture,
        "captured": captured,
        "replayed": replayed,
        "live": live,
        "after": standin.counts(),
        "slots": engine.slots,
    }


def graphs_of_one_session(standin: StandIn, model: str) -> list[Counts]:
    """Return the calls of two captures of one session, on two threads, which nothing serialises."""
    [(name, options)] = cuda_providers(0)
    providers = [(name, {**options, "enable_cuda_graph": "1"})]
    session = ort.InferenceSession(model, providers=providers)
    device = open_cuda("cuda-bindings").device(0)
    counts = []

    def capture(number: int) -> None:
        binding, config = session.io_binding(), ort.RunOptions()
        config.add_run_config_entry("gpu_graph_id", str(number))
        [pixels] = session.get_inputs()
        shape = (1, *pixels.shape[1:])
        address = device.allocate(int(np.prod(shape)))
        binding.bind_input("pixels", "cuda", 0, np.uint8, shape, address)
        for output in session.get_outputs():
            kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64}[output.type]
            row = (1, *output.shape[1:])
            address = device.allocate(8 * int(np.prod(row)))
            binding.bind_output(output.name, "cuda", 0, kind, row, address)
        standin.reset()
        session.run_with_iobinding(binding, config)
        counts.append(dict(standin.counts()))

    for number in (1, 2):
        thread = threading.Thread(target=capture, args=(number,))
        thread.start()
        thread.join()
    return counts


def streams(standin: StandIn, model: str) -> int:
    """Return on how many streams kernels were launched while three slots ran at once."""
    cuda = open_cuda("cuda-bindings")
    engine = _opened(model, (1,), slots=4)  # one prepares the next batch
    _on_all_slots(engine, 1)
    standin.reset()
    standin.delay(2000)
    assert cuda.device_count() == 1
    _on_all_slots(engine, 1, turns=1)
    return standin.counts()["launching_streams"]


def warm(standin: StandIn, model: str, name: str, megabytes: int) -> dict[str, Any]:
    """Warm up on a device of `megabytes` MB; return what serves, or why nothing does."""
    warm_up._TRIAL_S = 0.001
    warm_up.WORTH_IT = 0.0  # durations mean nothing here: only memory ends the sweep
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tidegate").addHandler(handler)
    logging.getLogger("tidegate").setLevel(logging.INFO)
    standin.limit(megabytes * 10**6)
    try:
        opened = open_engine(Path(model), EngineConfig(name, slots=1), (1, 2, 4, 8, 16, 32))
    except EngineUnavailable as error:
        return {"refused": str(error), "log": logged}
    return {
        "engine": opened.engine.info.name,
        "batches": list(opened.latency_s),
        "largest": opened.engine.max_batch_size,
        "log": logged,
    }


def bounded(standin: StandIn, model: str, megabytes: int) -> dict[str, Any]:
    """Run a batch of 64 in a bounded arena; return the kind of the failure and the memory used."""
    request = EngineRequest(Path(model), "onnx-cuda", (1, 64), "fp32")
    engine = open_gpu_engine(request, GpuConfig(arena_bytes=megabytes * 10**6))
    image = warm_up.random_image(engine)
    engine.run(0, (image,))
    try:
        engine.run(0, (image,) * 64)
    except Exception as error:  # noqa: BLE001 - the runtimes' exceptions share no base class
        fault = fault_of(error).name
    else:
        fault = ""
    return {"fault": fault, "live": standin.counts()["live_bytes"]}


def faults(standin: StandIn, model: str, codes: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Return the kind and the text of the error that a batch raises if a launch fails."""
    engine = _opened(model, (1,))
    image = warm_up.random_image(engine)
    engine.run(0, (image,))
    found = {}
    for code in codes:
        standin.fail(code)
        try:
            engine.run(0, (image,))
        except Exception as error:  # noqa: BLE001 - the runtimes' exceptions share no base class
            found[code] = fault_of(error).name, f"{type(error).__name__}: {error}"
        standin.fail(0)
    return found


def descriptors(standin: StandIn, model: str, turns: int) -> list[int]:
    """Return how many cuDNN descriptors batches of 1 and 8 in turn make, after the first ones."""
    engine = _opened(model, (1, 8))
    image = warm_up.random_image(engine)
    made = []
    for batch in (1, 8) * turns:
        engine.run(0, (image,) * batch)
        made.append(standin.descriptors())
    return [after - before for before, after in pairwise(made[2:])]


def _opened(model: str, buckets: Sequence[int], slots: int = 3) -> DeviceEngine:
    request = EngineRequest(Path(model), "onnx-cuda", buckets, "fp32")
    engine = open_gpu_engine(request, GpuConfig(), slots)
    assert isinstance(engine, DeviceEngine)
    return engine


def _on_all_slots(engine: DeviceEngine, batch: int, turns: int = _TURNS) -> None:
    images = (warm_up.random_image(engine),) * batch
    with ThreadPoolExecutor(engine.slots) as pool:
        for _ in range(turns):
            list(pool.map(lambda slot: engine.run(slot, images), range(engine.slots)))


def _counted(standin: StandIn, engine: DeviceEngine, slot: int, batch: int) -> Counts:
    images = (warm_up.random_image(engine),) * batch
    standin.reset()
    engine.run(slot, images)
    return dict(standin.counts())
