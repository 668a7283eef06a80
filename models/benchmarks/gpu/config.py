"""The configuration of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tidegate.models.benchmarks.gpu.measure import MeasurementBudget
from tidegate.service.engines.open_gpu import GpuConfig


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """What to measure, and for how long."""

    bundles: Sequence[Path]
    engines: Sequence[str]
    precisions: Sequence[str]
    photos: Path
    max_batch_size: int
    gpu: GpuConfig
    budget: MeasurementBudget
    tests: bool = True
    over_http: bool = True


def quick(config: ReportConfig) -> ReportConfig:
    """Return a config with a tenth of the batches and seconds, as a smoke test."""
    budget = MeasurementBudget(
        runs=20, runs_s=1.0, warm_up=3, seconds=0.2, plateau=1000, plateau_s=6.0, http_s=2.0
    )
    return replace(config, budget=budget)


def photographs(config: ReportConfig) -> list[Path]:
    """Return the JPEG files of a config, sorted."""
    found = config.photos.rglob("*")
    return sorted(path for path in found if path.suffix.lower() in (".jpg", ".jpeg"))
