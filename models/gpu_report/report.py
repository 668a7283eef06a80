"""Everything a GPU has to show, one part after the other; what did not run says why."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from models.extract import load_pixels
from models.gpu_report import facts, http, measure, parity, road, suite
from models.half import to_fp16
from models.parity import normalised
from models.progress import say
from models.unseal import reseal, unseal
from service.bundle.store import Bundle, open_bundle
from service.engines.base import EngineInfo
from service.engines.choose import WarmEngine, buckets_for
from service.engines.cuda.base import Cuda, Device, open_cuda
from service.engines.device import DeviceEngine, Program
from service.engines.gpu import GPU_ENGINES, GpuConfig, Wanted, choose_all_graphs, open_program_for
from service.engines.onnx import OnnxEngine
from service.engines.warm import sweep
from service.errors import TidegateError
from service.imaging.preprocess import preprocess
from service.types import Pixels

_CLIENTS = 256
_MAX_PIXELS = 100_000_000
_NOISE_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and for how long."""

    bundles: Sequence[Path]
    engines: Sequence[str]
    precisions: Sequence[str]
    photos: Path
    max_batch_size: int
    gpu: GpuConfig
    effort: measure.Effort
    tests: bool = True
    over_http: bool = True


def make(plan: Plan, keep: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """Return the report; `keep` is told of it after every part, so that a lost machine loses one.

    Raises EngineUnavailable where there is no GPU.
    """
    cuda = open_cuda(plan.gpu.cuda_binding)
    cuda.device_count()
    report: dict[str, object] = {**facts.before(sys.argv), "cuda": cuda.version}
    parts: list[dict[str, object]] = []
    report["engines"] = parts
    not_run: list[str] = []
    report["not_run"] = not_run
    for path in plan.bundles:
        bundle = open_bundle(path)
        for precision in plan.precisions:
            for engine in plan.engines:
                name = f"{bundle.manifest.name} in {precision} on {engine}"
                say(name)
                try:
                    parts.append(_engine(plan, cuda, bundle, precision, engine))
                except (TidegateError, RuntimeError) as error:
                    not_run.append(f"{name}: {error}")
                report["libraries"] = facts.loaded_libraries()
                keep(report)
    if plan.over_http:
        report["http"] = _over_http(plan, not_run)
        keep(report)
    if plan.tests:
        say("the GPU tests")
        report["tests"] = suite.run_tests()
        keep(report)
    return report


def _engine(plan: Plan, cuda: Cuda, bundle: Bundle, precision: str, name: str) -> dict[str, object]:
    """Measure one graph on one engine, on the first device."""
    pixels = _pixels(bundle, plan.photos)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-report-"))
        model = _model(bundle, precision, pixels, Path(folder))
        buckets = buckets_for(plan.max_batch_size, bundle.manifest.engine.buckets)
        wanted = Wanted(model, name, buckets, precision)
        device = stack.enter_context(contextlib.closing(cuda.device(plan.gpu.devices[0])))
        device.use()
        started = time.perf_counter()
        program, runtime = open_program_for(wanted, plan.gpu, cuda, device)
        loaded_s = time.perf_counter() - started
        info = EngineInfo(name, runtime, f"cuda:{device.index} {device.name}", precision, 1)

        def opened(slots: int) -> DeviceEngine:
            # Each has buffers of its own, and frees only those.
            own = cuda.device(device.index)
            return DeviceEngine(own, program, info, slots=slots, buckets=buckets)

        say("  numbers, latency, slots, overlap, memory")
        figures: dict[str, object] = {
            "bundle": bundle.manifest.name,
            "digest": bundle.digest,
            "info": asdict(info),
            "loaded_s": loaded_s,
            "parity": _parity(bundle, model, opened, pixels),
            **_speed(plan, device, program, opened, pixels),
        }
        figures["road"] = _road(plan, bundle, opened, pixels)
        return figures


def _speed(
    plan: Plan,
    device: Device,
    program: Program,
    opened: Callable[[int], DeviceEngine],
    pixels: Sequence[Pixels],
) -> dict[str, object]:
    engine = opened(3)
    try:
        figures: dict[str, object] = {
            "buckets": measure.as_rows(measure.buckets(engine, pixels, plan.effort)),
            "overlap": measure.overlap(engine, pixels),
            "memory": measure.plateau(engine, device, pixels, plan.effort.plateau),
        }
    finally:
        engine.close()
    bare = measure.bare_loop(device, program, engine.max_batch_size, plan.effort.seconds)
    return {**figures, "slots": measure.slots(opened, bare, pixels, plan.effort)}


def _parity(
    bundle: Bundle, model: Path, opened: Callable[[int], DeviceEngine], pixels: Sequence[Pixels]
) -> dict[str, object]:
    """Compare with the CPU running the same graph, and with the bundle's own."""
    engine = opened(1)
    try:
        got = parity.answers(engine, pixels)
    finally:
        engine.close()
    same, sealed = (
        parity.answers(OnnxEngine(path, buckets=(1, 8)), pixels)
        for path in (model, bundle.model_path)
    )
    return {
        "against_the_same_graph_on_the_cpu": parity.differences(got, same, bundle.gate),
        "against_the_sealed_graph_on_the_cpu": parity.differences(got, sealed, bundle.gate),
    }


def _road(
    plan: Plan, bundle: Bundle, opened: Callable[[int], DeviceEngine], pixels: Sequence[Pixels]
) -> dict[str, object]:
    """Measure the road from JPEG bytes, and from pixels, without HTTP."""
    engine = opened(3)
    try:
        largest = engine.buckets
        choose_all_graphs(engine, largest)
        warm = WarmEngine(engine, sweep(engine, largest, stop_early=False))
        spec = bundle.manifest.preprocess
        files = [path.read_bytes() for path in _jpegs(plan.photos)]
        decode = [partial(preprocess, file, spec, _MAX_PIXELS) for file in files]
        ready = [partial(_given, image) for image in pixels]
        seconds = 5 * plan.effort.seconds
        return {
            "graphs": sorted(engine.captured),
            "from_jpeg": road.drive(warm, decode, seconds=seconds, clients=_CLIENTS),
            "from_pixels": road.drive(
                warm, ready, seconds=seconds, clients=_CLIENTS, decode_threads=1
            ),
        }
    finally:
        engine.close()


def _over_http(plan: Plan, not_run: list[str]) -> dict[str, object]:
    """Measure the whole service with each bundle and engine, as it is sealed."""
    measured: dict[str, object] = {}
    for path in plan.bundles:
        for engine in plan.engines:
            model = open_bundle(path).manifest.name
            name = f"{model} on {engine}"
            say(f"{name}, over HTTP")
            settings = {"TIDEGATE_PLAN_CACHE": str(plan.gpu.plan_cache)}
            if plan.max_batch_size:
                settings["TIDEGATE_MAX_BATCH_SIZE"] = str(plan.max_batch_size)
            try:
                measured[name] = http.measure(path, model, engine, plan.photos, settings)
            except (OSError, RuntimeError) as error:
                not_run.append(f"{name}, over HTTP: {error}")
    return measured


def _model(bundle: Bundle, precision: str, pixels: Sequence[Pixels], folder: Path) -> Path:
    """Return the sealed graph itself, or one with its backbone in fp16 behind the same gate."""
    if precision == bundle.manifest.precision:
        return bundle.model_path
    if precision != "fp16" or bundle.manifest.precision != "fp32":
        raise RuntimeError(f"the bundle is in {bundle.manifest.precision}")
    sealed = bundle.model_path.read_bytes()
    spec = bundle.manifest.preprocess
    some = np.stack([normalised(image, spec) for image in pixels[:8]]).astype(np.float32)
    path = folder / "model.onnx"
    path.write_bytes(reseal(sealed, to_fp16(unseal(sealed), some)))
    return path


def _pixels(bundle: Bundle, photos: Path) -> list[Pixels]:
    """Return photographs, and noise of several strengths, as the network takes them."""
    spec = bundle.manifest.preprocess
    images = [load_pixels(path, spec) for path in _jpegs(photos)]
    rng = np.random.default_rng(0)
    height, width = spec.output_size
    for strength in np.linspace(2, 120, _NOISE_IMAGES):
        values = rng.normal(rng.uniform(0, 255, 3), strength, (height, width, 3))
        images.append(Pixels(values.clip(0, 255).astype(np.uint8)))
    return images


def _jpegs(photos: Path) -> list[Path]:
    return sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def _given(image: Pixels) -> Pixels:
    return image


def write(path: Path, report: dict[str, object]) -> None:
    """Write a report beside its place, then there: a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def quick(plan: Plan) -> Plan:
    """Return a plan of a tenth of the time, to see whether everything runs."""
    effort = measure.Effort(runs=20, warm_up=3, seconds=0.2, plateau=1000)
    return replace(plan, effort=effort)


ENGINES = GPU_ENGINES
