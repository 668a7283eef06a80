"""Questions to ONNX Runtime that only a GPU answers: onnxruntime_probe.py MODEL OUT.

What a batch costs eagerly, with other options and as a graph; what changes of shape, sessions and
memory cost; whether slots overlap; how long a wait takes that blocks or spins.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tidegate.service.engines.cuda.base import Device
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.onnxruntime.gpu import cuda_providers
from tidegate.service.errors import EngineUnavailable

SIZES = (1, 8, 64)
OPTIONS = {
    "as_served": {},
    "heuristic": {"cudnn_conv_algo_search": "HEURISTIC"},
    "channels_last": {"prefer_nhwc": "1"},
    "fused_bias": {"fuse_conv_bias": "1"},
    "tf32": {"use_tf32": "1"},
    "graph": {"enable_cuda_graph": "1"},
}
Answers = dict[str, Any]


class Probe:
    """Sessions of one model on one device."""

    def __init__(self, model: str, device: Device) -> None:
        self.model = model
        self.device = device

    def run_of(self, batch: int, session: Any = None, **options: str) -> Callable[[], None]:
        """Return a function that runs a batch of random pixels, already on the device."""
        session = session or self.session(**options)
        [pixels] = session.get_inputs()
        rng = np.random.default_rng(batch)
        images = rng.integers(0, 256, (batch, *pixels.shape[1:]), np.uint8)
        binding = session.io_binding()
        on_device = ort.OrtValue.ortvalue_from_numpy(images, "cuda", 0)
        binding.bind_ortvalue_input(pixels.name, on_device)
        for output in session.get_outputs():
            kind = np.int64 if "int64" in output.type else np.float32
            shape = (batch, *output.shape[1:])
            place = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cuda", 0)
            binding.bind_ortvalue_output(output.name, place)
        return lambda: session.run_with_iobinding(binding)

    def session(self, **options: str) -> Any:
        """Open a session with the service's options and others."""
        [(name, served)] = cuda_providers(0)
        return ort.InferenceSession(self.model, providers=[(name, {**served, **options})])

    def options(self) -> Answers:
        """Return the median milliseconds of each option and batch size."""
        found: Answers = {}
        for name, options in OPTIONS.items():
            found[name] = {size: p50_ms(self.run_of(size, **options)) for size in SIZES}
        return found

    def changing_shapes(self) -> Answers:
        """Return the milliseconds of batches of 1 and 8 in turn, on one session and on two."""
        shared = self.session()
        one = [self.run_of(size, shared) for size in (1, 8)]
        two = [self.run_of(size) for size in (1, 8)]
        return {
            "one_session": p50_ms(lambda: [run() for run in one]),
            "session_each": p50_ms(lambda: [run() for run in two]),
        }

    def overlap(self) -> Answers:
        """Return the time of three threads relative to the same batches one after the other."""
        session = self.session()
        runs = [self.run_of(16, session) for _ in range(3)]

        def work(run: Callable[[], None]) -> None:
            for _ in range(100):
                run()

        for run in runs:
            work(run)
        started = time.perf_counter()
        threads = [threading.Thread(target=work, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = time.perf_counter() - started
        started = time.perf_counter()
        for run in runs:
            work(run)
        return {"ratio": together / (time.perf_counter() - started)}


def waits() -> Answers:
    """Return the median microseconds from a short copy to the end of the wait for it."""
    found = {}
    for spin in (False, True):
        device = open_cuda("cuda-bindings", spin=spin).device(0)
        host, there = device.pinned(4096), device.allocate(4096)
        stream, event = device.stream(), device.event()

        def copy(
            device: Device = device,
            parts: tuple[Any, ...] = (host, there, stream, event),
        ) -> None:
            host, there, stream, event = parts
            device.copy_in(there, host, stream)
            device.record(event, stream)
            device.wait(event)

        found["spin" if spin else "block"] = 1e3 * p50_ms(copy)
    return found


def p50_ms(run: Callable[[], object], seconds: float = 1.0) -> float:
    """Return the median milliseconds of `run`, after five runs."""
    for _ in range(5):
        run()
    took: list[float] = []
    end = time.perf_counter() + seconds
    while len(took) < 20 or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return 1e3 * float(np.median(took))


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2])
    try:
        cuda = open_cuda("cuda-bindings")
        cuda.device_count()
    except EngineUnavailable as error:
        sys.exit(str(error))
    ort.preload_dlls()
    probe = Probe(model, cuda.device(0))
    answers: Answers = {}
    for part in (probe.options, probe.changing_shapes, probe.overlap, waits):
        try:
            answers[part.__name__] = part()
        except Exception as error:  # noqa: BLE001 - the other questions are still answered
            answers[part.__name__] = f"{type(error).__name__}: {error}"
        print(part.__name__, json.dumps(answers[part.__name__]), flush=True)
        out.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
