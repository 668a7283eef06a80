"""The drift alert's false and true alarms, simulated with the rules' formulae."""

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.docker.class_mix import class_mix

Z, EFFECT = "tidegate:class_mix:z1h", "tidegate:class_mix:effect1h"
RUNS = 2000
SIZES = [(100, 100), (100, 400), (1000, 400), (20_000, 400), (1000, 5000), (2000, 50_000)]


def _zipf(classes: int) -> NDArray[np.float64]:
    """Return shares with many rare classes: the difficult case for χ²."""
    mix: NDArray[np.float64] = 1 / np.arange(1.0, classes + 1)
    mix /= mix.sum()
    return mix


def _alarms(numbers: dict[str, float]) -> bool:
    return numbers[Z] > 5 and numbers[EFFECT] > 0.15


@pytest.mark.parametrize("shape", ["zipf", "flat"])
@pytest.mark.parametrize(("total", "samples"), SIZES)
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_without_drift_z_has_mean_0_and_deviation_1_and_no_alert_fires(
    classes: int, total: int, samples: int, shape: str
) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{classes} {total} {samples} {shape}".encode()))
    mix = _zipf(classes) if shape == "zipf" else np.full(classes, 1 / classes)

    observed = rng.multinomial(total, mix, RUNS) * 1.0
    reference = rng.multinomial(samples, mix, RUNS) * 1.0
    runs = [class_mix(o, r) for o, r in zip(observed, reference, strict=True)]

    z = np.array([run[Z] for run in runs])
    assert abs(z.mean()) < 0.1  # 4.5 standard errors of the mean of 2000
    assert abs(z.std() - 1) < 0.1
    assert not any(map(_alarms, runs))


@pytest.mark.parametrize(("minutes", "most"), [(10, 0.7), (60, 0.1)])
def test_the_extrapolation_of_increase_adds_a_bounded_amount_to_z(
    minutes: int, most: float
) -> None:
    """increase() scales the counts by window / (window − scrape interval), here 15 s."""
    rng = np.random.default_rng(0)
    mix = np.full(1000, 1e-3)
    observed, reference = rng.multinomial(2000, mix), rng.multinomial(50_000, mix)
    stretch = minutes * 60 / (minutes * 60 - 15)

    added = class_mix(observed * stretch, reference * 1.0)[Z]
    added -= class_mix(observed * 1.0, reference * 1.0)[Z]

    assert 0 < added < most


# Counts for which z detects a fifth of the mass, moved evenly (effect .16). This depends on
# N·n/(N + n): about 450 for ten classes, 800 for a hundred, 4000 for a thousand.
@pytest.mark.parametrize(
    ("classes", "total", "samples"), [(10, 2000, 600), (100, 4000, 1000), (1000, 20_000, 5000)]
)
def test_z_exceeds_5_if_a_fifth_of_the_mass_moved(classes: int, total: int, samples: int) -> None:
    rng = np.random.default_rng(0)
    before = np.full(classes, 1 / classes)
    after = before * np.where(np.arange(classes) % 2, 0.6, 1.4)
    assert np.abs(after - before).sum() / 2 == pytest.approx(0.2)

    runs = [
        class_mix(rng.multinomial(total, after) * 1.0, rng.multinomial(samples, before) * 1.0)
        for _ in range(200)
    ]

    assert np.mean([run[Z] > 5 for run in runs]) >= 0.95
