"""A month without drift, at a given rate: no drift alert fires.

The alerts' conditions in NumPy, every five minutes of 30 days, without their `for`, which would
make alerts even rarer. The calibration sizes are small, which is the difficult case.
"""

import zlib

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.docker.class_mix import class_mix, class_shift, needed

STEP_M = 5
STEPS = 30 * 24 * 60 // STEP_M
WINDOWS = {"1h": 60 // STEP_M, "1d": 24 * 60 // STEP_M}
SAMPLES, CALIBRATION, ALPHA = 500, 500, 0.01
BOUNDS = np.arange(0.1, 1, 0.1)

Floats = NDArray[np.floating]


def rolled(counts: NDArray[np.int64], steps: int) -> Floats:
    """Return the sum over the last `steps` steps, at every step."""
    total = np.cumsum(counts, axis=0, dtype=np.float64)
    total[steps:] -= total[:-steps].copy()
    return total


def mix_alarms(observed: Floats, reference: Floats) -> set[str]:
    """Return the class alerts whose condition holds."""
    found = set()
    total, samples = observed.sum(), reference.sum()
    numbers = class_mix(observed, reference)
    z, effect = (numbers[f"tidegate:class_mix:{name}1h"] for name in ("z", "effect"))
    if total >= 100 and z > 5 and effect > 0.15:
        found.add("TidegateClassMixDrift")
    sure = class_shift(observed, reference) > needed(observed, reference)
    share, was = observed / total, reference / samples
    if (sure & (share < 0.1 * was)).any():
        found.add("TidegateClassVanished")
    if (sure & (share > 0.01 + 5 * was)).any():
        found.add("TidegateClassExploded")
    return found


def confidence_alarms(counts: Floats, reference: Floats) -> set[str]:
    """Return the alert on confidences if its condition holds; counts by band."""
    total = counts.sum()
    apart = np.abs(np.cumsum(counts) / total - np.cumsum(reference) / SAMPLES).max()
    sure = apart / np.sqrt(1 / total + 1 / SAMPLES) > 2.5
    return {"TidegateConfidenceShift"} if apart > 0.1 and sure else set()


def ood_alarms(flagged: float, total: float) -> set[str]:
    """Return the alert on the gate's rate if its condition holds."""
    z = (flagged / total - ALPHA) / np.sqrt(ALPHA * (1 - ALPHA) * (1 / total + 1 / CALIBRATION))
    high = flagged >= 10 and flagged / total > 2 * ALPHA and z > 5
    return {"TidegateOodRateHigh"} if high else set()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("images_per_hour", [60, 3600])
@pytest.mark.parametrize("shape", ["flat", "zipf"])
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_a_month_without_drift_has_no_alert(classes: int, shape: str, images_per_hour: int) -> None:
    rng = np.random.default_rng(zlib.crc32(f"{classes} {shape} {images_per_hour}".encode()))
    mix = 1 / np.arange(1.0, classes + 1) if shape == "zipf" else np.ones(classes)
    mix /= mix.sum()
    confidences = rng.dirichlet(np.ones(len(BOUNDS) + 1))
    reference = rng.multinomial(SAMPLES, mix) * 1.0
    sure = rng.multinomial(SAMPLES, confidences) * 1.0
    # The share that exceeds the k-th smallest of n calibration scores is random.
    k = int(ALPHA * (CALIBRATION + 1))
    rate = rng.beta(k, CALIBRATION + 1 - k)

    images = rng.poisson(images_per_hour * STEP_M / 60, STEPS)
    by_class = rng.multinomial(images, mix)
    by_confidence = rng.multinomial(images, confidences)
    flagged = rng.binomial(images, rate)

    alarms: set[str] = set()
    for steps in WINDOWS.values():
        totals = rolled(images, steps)
        windows = zip(
            rolled(by_class, steps),
            rolled(by_confidence, steps),
            rolled(flagged, steps),
            totals,
            strict=True,
        )
        for o, c, f, total in windows:
            if total > 0:
                alarms |= mix_alarms(o, reference) | confidence_alarms(c, sure)
                alarms |= ood_alarms(float(f), float(total))

    assert not alarms


@pytest.mark.slow
def test_the_same_conditions_are_met_with_drift() -> None:
    reference = np.full(10, 50.0)

    assert "TidegateClassMixDrift" in mix_alarms(np.array([300.0, *[30.0] * 9]), reference)
    assert "TidegateClassVanished" in mix_alarms(np.array([0.0, *[100.0] * 9]), reference)
    assert confidence_alarms(np.array([0.0, 600.0]), np.array([250.0, 250.0]))
    assert ood_alarms(100, 1000)
