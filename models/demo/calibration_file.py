"""The committed result of the demo's calibration: an .npz file of arrays and a JSON report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.demo.spec import calibration_files
from tidegate.models.errors import BuildRefused
from tidegate.models.precision.activations import Activations
from tidegate.models.sealing.npz import npz
from tidegate.service.bundle.manifest import Precision
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, Gate

Float64 = NDArray[np.float64]
_ARRAYS = ("centre", "drawn", "scores_a", "combined_b", "class_counts")


@dataclass(frozen=True, slots=True)
class DemoCalibration:
    """The gate's fitted numbers, and the report of the calibration."""

    centre: NDArray[np.float32]  # [1280], the mean feature vector
    drawn: NDArray[np.float32]  # [1280], the detector of drawn images
    scores_a: Float64  # [S, n], each row ascending, in the order of report["fit"]["scores"]
    combined_b: Float64
    class_counts: NDArray[np.int64]  # [1000]
    report: dict[str, Any]
    activations: Activations | None = None  # of the network in fp32, for int8

    @property
    def gate(self) -> Gate:
        """Return the gate that the service will use."""
        alphas, fit = self.report["thresholds"], self.report["fit"]
        folds_a = map(TailedFold.of, self.scores_a)
        return Gate(
            dict(zip(fit["scores"], folds_a, strict=True)),
            tuple(fit["combination"]),
            FinalFold.marginal(self.combined_b),
            alphas["alpha_reject"],
            alphas["alpha_review"],
        )

    def arrays_file(self) -> bytes:
        """Return calibration.npz; the same numbers give the same bytes."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        return npz(arrays | (_packed(self.activations) if self.activations else {}))

    def report_file(self) -> bytes:
        """Return calibration.json."""
        return (json.dumps(self.report, indent=1, ensure_ascii=False) + "\n").encode()

    def save(self, precision: Precision) -> None:
        """Write both files of the precision."""
        arrays, report = calibration_files(precision)
        arrays.write_bytes(self.arrays_file())
        report.write_bytes(self.report_file())


def load(precision: Precision = "fp32") -> DemoCalibration:
    """Return the committed calibration. Raises BuildRefused if it cannot be read."""
    return read(*calibration_files(precision))


def read(arrays_path: Path, report_path: Path) -> DemoCalibration:
    """Return a calibration from its two files. Raises BuildRefused if they are invalid."""
    try:
        report = json.loads(report_path.read_bytes())
        with np.load(arrays_path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in _ARRAYS}
            seen = _unpacked(stored) if "tensors" in stored else None
    except (OSError, ValueError, KeyError) as error:
        raise BuildRefused(f"The demo's calibration cannot be read: {error}.") from error
    return DemoCalibration(report=report, activations=seen, **arrays)


def _packed(seen: Activations) -> dict[str, NDArray[Any]]:
    return {
        "images": np.array(seen.images),
        "tensors": np.array(list(seen.ranges)),
        "ranges": np.array(list(seen.ranges.values())),  # [tensors, 2]
        "layers": np.array(list(seen.means)),
        "channels": np.array([len(mean) for mean in seen.means.values()]),
        "means": np.concatenate(list(seen.means.values())),
    }


def _unpacked(stored: Mapping[str, NDArray[Any]]) -> Activations:
    means = np.split(stored["means"], np.cumsum(stored["channels"])[:-1])
    ranges = zip(stored["tensors"].tolist(), stored["ranges"], strict=True)
    return Activations(
        int(stored["images"]),
        {name: (low, high) for name, (low, high) in ranges},
        dict(zip(stored["layers"].tolist(), means, strict=True)),
    )
