"""`tidegate gpu-report`: what the GPU here shows of the engines, as one JSON file."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tidegate.models.benchmarks.gpu import report
from tidegate.models.benchmarks.gpu.measure import MeasurementBudget
from tidegate.models.benchmarks.gpu.plan import Plan, quick
from tidegate.models.errors import BuildRefused
from tidegate.models.progress import say
from tidegate.service.engines.open_gpu import GPU_ENGINES, GpuConfig

_DEMO = Path("models/bundles/efficientnet-lite0/1")


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate gpu-report",
        description="Run the GPU tests and measure every engine that loads: numbers against the "
        "CPU's, latency per batch size, sizes that alternate, slots against a bare loop, graphs, "
        "memory, and the road from JPEG bytes to answers, without HTTP and with it. What fails is "
        "in the report, and ends nothing else. Needs a GPU; on none it stops. An estimate, for "
        "none has been timed: half an hour to an hour for each bundle, and TensorRT's plans.",
    )
    options.add_argument(
        "bundles", nargs="*", type=Path, metavar="BUNDLE", help="sealed folders (default: the demo)"
    )
    options.add_argument(
        "--engine", action="append", choices=GPU_ENGINES, help="again for more (default: all)"
    )
    options.add_argument(
        "--precision", action="append", choices=("fp32", "fp16"), help="likewise (default: both)"
    )
    options.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="JPEG files, as clients send them"
    )
    options.add_argument(
        "--max-batch-size", type=int, default=64, metavar="N", help="(default: %(default)s)"
    )
    options.add_argument("--device", type=int, default=0, help="(default: %(default)s)")
    options.add_argument("--plan-cache", type=Path, default=Path("build/plans"), metavar="DIR")
    options.add_argument("--quick", action="store_true", help="a tenth of the batches and seconds")
    options.add_argument("--no-tests", action="store_true", help="leave the GPU tests out")
    options.add_argument("--no-http", action="store_true", help="leave the service out")
    options.add_argument(
        "--out", type=Path, metavar="FILE", help="(default: in load_tests/results)"
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Measure, write after every part, and say where."""
    if not any(options.photos.rglob("*.jp*g")):
        raise BuildRefused(f"There is no JPEG file in {options.photos}.")
    plan = Plan(
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
    made = report.make(quick(plan) if options.quick else plan, partial(report.write, out))
    report.write(out, made)
    say(f"{out}; not run: {made['not_run'] or 'nothing'}")
