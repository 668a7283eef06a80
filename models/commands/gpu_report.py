"""`tidegate gpu-report`: measure the engines on this machine's GPU, as one JSON file."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tidegate.models.benchmarks.gpu import report
from tidegate.models.benchmarks.gpu.config import ReportConfig, quick
from tidegate.models.benchmarks.gpu.measure import MeasurementBudget
from tidegate.models.errors import BuildRefused
from tidegate.models.progress import say
from tidegate.models.sealing.write import check_writable
from tidegate.service.engines.open_gpu import GPU_ENGINES, GpuConfig

_DEMO = Path("models/bundles/efficientnet-lite0/1")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate gpu-report",
        description="Run the GPU tests and measure every engine that loads: differences from the "
        "CPU's outputs, latency per batch size, alternating batch sizes, slots against a bare "
        "loop, CUDA graphs, memory, and throughput from JPEG bytes to answers, without and with "
        "HTTP. Failures are recorded in the report and stop no other measurement. Needs a GPU. "
        "Estimated time (not measured): 30 to 60 minutes per bundle, plus building TensorRT plans.",
    )
    options.add_argument(
        "bundles",
        nargs="*",
        type=Path,
        metavar="BUNDLE",
        help="folders of sealed bundles (default: the demo)",
    )
    options.add_argument(
        "--engine", action="append", choices=GPU_ENGINES, help="may be repeated (default: all)"
    )
    options.add_argument(
        "--precision",
        action="append",
        choices=("fp32", "fp16"),
        help="may be repeated (default: both)",
    )
    options.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="folder of JPEG files"
    )
    options.add_argument(
        "--max-batch-size",
        type=int,
        default=64,
        metavar="N",
        help="largest batch size (default: %(default)s)",
    )
    options.add_argument(
        "--device", type=int, default=0, help="index of the GPU (default: %(default)s)"
    )
    options.add_argument(
        "--plan-cache",
        type=Path,
        default=Path("build/plans"),
        metavar="DIR",
        help="folder of TensorRT plans (default: %(default)s)",
    )
    options.add_argument(
        "--quick", action="store_true", help="run a tenth of the batches and seconds"
    )
    options.add_argument("--no-tests", action="store_true", help="skip the GPU tests")
    options.add_argument("--no-http", action="store_true", help="skip the measurements over HTTP")
    options.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="file for the report (default: in load_tests/results)",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, write the report after every part, and print its path."""
    if not any(options.photos.rglob("*.jp*g")):
        raise BuildRefused(f"No JPEG file in {options.photos}.")
    config = ReportConfig(
        bundles=options.bundles or [_DEMO],
        engines=options.engine or GPU_ENGINES,
        precisions=options.precision or ("fp32", "fp16"),
        photos=options.photos,
        max_batch_size=options.max_batch_size,
        gpu=GpuConfig((options.device,), plan_cache=options.plan_cache),
        budget=MeasurementBudget(),
        tests=not options.no_tests,
        over_http=not options.no_http,
    )
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(f"load_tests/results/{day}-gpu.json")
    check_writable(out.parent)
    made = report.make(quick(config) if options.quick else config, partial(report.write, out))
    report.write(out, made)
    say(f"Wrote {out}. Not run: {made['not_run'] or 'nothing'}.")
