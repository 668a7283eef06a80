"""Make the GPU report part by part, with the reason for every part that did not run."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tidegate.models.benchmarks.gpu import environment, http, parity, suite
from tidegate.models.benchmarks.gpu.config import ReportConfig, photographs
from tidegate.models.benchmarks.gpu.engine import Graph, Row, measure_engine
from tidegate.models.benchmarks.gpu.parts import Keep, Parts
from tidegate.models.data.outputs import load_pixels
from tidegate.models.errors import BuildRefused
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.precision.fp16 import to_fp16
from tidegate.models.sealing.unseal import reseal, unseal
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.engines.cuda.base import Cuda
from tidegate.service.engines.cuda.open import open_cuda
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.onnxruntime.gpu import refuse_tf32
from tidegate.service.types import Outputs, Pixels

_NOISE_IMAGES = 64


def make(config: ReportConfig, keep: Keep) -> dict[str, object]:
    """Return the report; `keep` gets it after every part, so that a lost machine loses one part.

    Raises EngineUnavailable if there is no GPU.
    """
    refuse_tf32()
    cuda = open_cuda(config.gpu.cuda_binding)
    cuda.device_count()
    report: dict[str, object] = {**environment.before(sys.argv), "cuda": cuda.version}
    parts = Parts(report, keep)
    if config.tests:
        parts.run("the GPU tests", partial(_tests, config, report))
    engines: list[Row] = []
    report["engines"] = engines
    for path in config.bundles:
        parts.run_on_device(f"bundle {path}", partial(_bundle, config, parts, cuda, path, engines))
    if config.over_http:
        loads: dict[str, Row] = {}
        report["http"] = loads
        for path in config.bundles:
            parts.run(f"bundle {path}, over HTTP", partial(_over_http, config, parts, path, loads))
    parts.run("the loaded libraries", partial(_libraries, report))
    return report


def write(path: Path, report: dict[str, object]) -> None:
    """Write a report atomically, so that a reader never sees a partial file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _tests(config: ReportConfig, report: dict[str, object]) -> None:
    report["tests"] = suite.run_tests(config.budget.plateau)


def _libraries(report: dict[str, object]) -> None:
    report["libraries"] = environment.loaded_libraries()


def _bundle(config: ReportConfig, parts: Parts, cuda: Cuda, path: Path, engines: list[Row]) -> None:
    """Measure a bundle's graph in each precision on each engine, in this process."""
    bundle = open_bundle(path)
    pixels = _pixels(config, bundle)

    @functools.cache
    def on_the_cpu(model: Path) -> Outputs:
        return parity.answers(OnnxEngine(model, buckets=(1, 8)), pixels)

    def measure(precision: str, folder: Path) -> None:
        model = _model(bundle, precision, pixels, folder)
        graph = Graph(bundle, precision, model, pixels, on_the_cpu)
        for engine in config.engines:
            name = f"{bundle.manifest.name} in {precision} on {engine}"
            on_it = partial(measure_engine, config, parts, cuda, graph, engine, engines)
            parts.run_on_device(name, on_it)

    with tempfile.TemporaryDirectory(prefix="tidegate-report-") as folder:
        for precision in config.precisions:
            name = f"{bundle.manifest.name} in {precision}"
            parts.run_on_device(name, partial(measure, precision, Path(folder)))


def _over_http(config: ReportConfig, parts: Parts, path: Path, loads: dict[str, Row]) -> None:
    """Measure the whole service with the unchanged bundle on each engine."""
    model = open_bundle(path).manifest.name
    settings = {
        "TIDEGATE_PLAN_CACHE": str(config.gpu.plan_cache),
        "TIDEGATE_DEVICES": str(config.gpu.devices[0]),
    }
    if config.max_batch_size:
        settings["TIDEGATE_MAX_BATCH_SIZE"] = str(config.max_batch_size)

    def load(name: str, engine: str) -> None:
        seconds = config.budget.http_s
        for what, figures in http.measure(path, model, engine, config.photos, settings, seconds):
            loads.setdefault(name, {})[what] = figures

    for engine in config.engines:
        name = f"{model} on {engine}"
        parts.run(f"{name}, over HTTP", partial(load, name, engine))


def _model(bundle: Bundle, precision: str, pixels: list[Pixels], folder: Path) -> Path:
    """Return the sealed graph, or one with its backbone in fp16 and the same gate."""
    if precision == bundle.manifest.precision:
        return bundle.model_path
    if precision != "fp16" or bundle.manifest.precision != "fp32":
        raise BuildRefused(f"the bundle is in {bundle.manifest.precision}")
    sealed = bundle.model_path.read_bytes()
    spec = bundle.manifest.preprocess
    some = np.stack([normalised(image, spec) for image in pixels[:8]]).astype(np.float32)
    path = folder / "model.onnx"
    path.write_bytes(reseal(sealed, to_fp16(unseal(sealed), some)))
    return path


def _pixels(config: ReportConfig, bundle: Bundle) -> list[Pixels]:
    """Return preprocessed photographs, and noise of several strengths."""
    spec = bundle.manifest.preprocess
    images = [load_pixels(path, spec) for path in photographs(config)]
    rng = np.random.default_rng(0)
    height, width = spec.output_size
    for strength in np.linspace(2, 120, _NOISE_IMAGES):
        values = rng.normal(rng.uniform(0, 255, 3), strength, (height, width, 3))
        images.append(Pixels(values.clip(0, 255).astype(np.uint8)))
    return images
