"""The first batches of the product on a GPU: what loads, where nodes run, how far from the CPU.

The last figures are the largest differences relative to the CPU. fp32 promises 1e-4, which
cuDNN's choice of an algorithm may exceed; then the golden probes refuse the start.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tidegate.service.engines.base import EngineInfo
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.gpu_engine import DeviceEngine
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.onnxruntime.gpu import OnnxGpuProgram, refuse_tf32
from tidegate.service.engines.open_gpu import EngineRequest, GpuConfig, open_program_for
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Pixels

BUCKETS = (1, 8, 64)
RUNS = 30


def main() -> None:
    model = Path(
        sys.argv[1] if len(sys.argv) > 1 else "models/bundles/efficientnet-lite0/1/model.onnx"
    )
    refuse_tf32()
    try:
        cuda = open_cuda("cuda-bindings")
        print("devices", cuda.device_count(), cuda.name, cuda.version)
    except EngineUnavailable as error:
        sys.exit(str(error))
    device = cuda.device(0)
    print(device.name, device.compute_capability, "(free, total)", device.memory())
    started = time.perf_counter()
    request = EngineRequest(model, "onnx-cuda", BUCKETS, "fp32")
    program, runtime = open_program_for(request, GpuConfig(), cuda, device)
    assigned = program.nodes if isinstance(program, OnnxGpuProgram) else []
    nodes = dict(Counter(provider for provider, _ in assigned))
    print(runtime, f"loaded in {time.perf_counter() - started:.1f} s, nodes", nodes)
    info = EngineInfo("onnx-cuda", runtime, device.name, "fp32", 1)
    engine = DeviceEngine(device, program, info, slots=3, buckets=BUCKETS)
    rng = np.random.default_rng(0)
    shape = (*engine.input_size, 3)
    images = [Pixels(rng.integers(0, 256, shape, np.uint8)) for _ in range(BUCKETS[-1])]
    cpu = OnnxEngine(model, buckets=BUCKETS)
    for size in BUCKETS:
        figures = _timed(engine, images[:size])
        outputs, expected = engine.run(0, images[:size]), cpu.run(0, images[:size])
        for field in ("logits", "scores"):
            got, want = getattr(outputs, field), getattr(expected, field)
            figures[field] = float(np.abs(got - want).max() / np.abs(want).max())
        print(json.dumps({"batch": size, **figures}))
    for size in BUCKETS:
        engine.capture(size)
        print(json.dumps({"batch": size, "as_graph": _timed(engine, images[:size])}))
    print("(free, total)", device.memory())


def _timed(engine: DeviceEngine, images: list[Pixels]) -> dict[str, float]:
    took = []
    for _ in range(RUNS):
        started = time.perf_counter()
        engine.run(0, images)
        took.append(1e3 * (time.perf_counter() - started))
    parts = {f"{part}_ms": 1e3 * seconds for part, seconds in engine.parts_s(0).items()}
    return {"first_ms": took[0], "p50_ms": float(np.median(took)), **parts}


if __name__ == "__main__":
    main()
