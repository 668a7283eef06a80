"""Measure predicted probabilities, and fit the calibration temperature on held-out images.

Logits are float32 [n, classes] and may be memory-mapped; they are read in chunks and computed in
float64. Labels are the true class ids [n]. Probabilities are softmax(logits / temperature).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from tidegate.models.errors import BuildRefused
from tidegate.service.bundle.evidence import Probabilities, ReliabilityBin

Float64 = NDArray[np.float64]
Logits = NDArray[np.float32]  # [n, classes]
ClassIds = NDArray[np.int64]  # [n]

TEMPERATURES = (1e-3, 1e3)  # the search's bounds; a fit that ends at one is rejected
BINS = 15
FLOOR_DRAWS = 399  # (399 + 1) · 0.95 is whole, so the quantile is exact
_CHUNK_VALUES = 1 << 19  # logits at a time: 4 MB in float64, and a few such arrays


@dataclass(frozen=True, slots=True)
class Predictions:
    """The results of one pass over the logits; every array is [n]."""

    predicted: ClassIds  # independent of the temperature
    confidence: Float64  # probability of the predicted class
    nll: Float64  # −log of the true class's probability
    squared_error: Float64  # Σ over classes of (probability − truth)²


def score_predictions(logits: Logits, class_ids: ClassIds, temperature: float) -> Predictions:
    """Return every image's prediction and its losses at `temperature`, in one pass.

    Raises BuildRefused if a logit is not finite.
    """
    n = len(class_ids)
    found = Predictions(np.empty(n, np.int64), np.empty(n), np.empty(n), np.empty(n))
    for rows in _chunks(*logits.shape):
        raw, truth = _read(logits, rows), class_ids[rows]
        index = np.arange(len(truth))
        z = raw / np.float64(temperature)
        z -= z.max(axis=1, keepdims=True)
        of_truth = z[index, truth]
        p = np.exp(z, out=z)
        total = p.sum(axis=1)
        p /= total[:, None]
        found.predicted[rows] = raw.argmax(axis=1)
        found.confidence[rows] = 1 / total  # the largest scaled logit is 0
        found.nll[rows] = np.log(total) - of_truth
        found.squared_error[rows] = np.einsum("ij,ij->i", p, p) - 2 * p[index, truth] + 1
    return found


def fit_temperature(logits: Logits, class_ids: ClassIds) -> float:
    """Return the T in TEMPERATURES that minimises the NLL of softmax(logits / T).

    Temperature scaling (Guo et al. 2017). The NLL is convex in 1 / T, so its slope has one zero,
    whose first nine digits do not depend on the library that adds. Raises BuildRefused if it is at
    or beyond a bound.
    """
    if not len(class_ids):
        raise BuildRefused("There are no calibration images to fit the temperature on.")
    _check_that_a_minimum_exists(logits, class_ids)
    low, high = TEMPERATURES
    if not _slope(logits, class_ids, low) > 0 > _slope(logits, class_ids, high):
        raise BuildRefused(
            "The fit of the calibration temperature found no minimum within the bounds of the "
            f"search ({low:g} to {high:g}): the logits do not match the labels. Check that class "
            "folders and class ids agree, or calibrate on more images."
        )
    log_t = brentq(
        lambda log_t: _slope(logits, class_ids, math.exp(log_t)), math.log(low), math.log(high)
    )
    return float(f"{math.exp(log_t):.9g}")


def nll(logits: Logits, class_ids: ClassIds, temperature: float) -> float:
    """Return the mean negative log likelihood of the true classes, in nats."""
    total = 0.0
    for rows in _chunks(*logits.shape):
        truth = class_ids[rows]
        z = logits[rows] / np.float64(temperature)
        z -= z.max(axis=1, keepdims=True)
        of_truth = z[np.arange(len(truth)), truth]
        total += float((np.log(np.exp(z, out=z).sum(axis=1)) - of_truth).sum())
    return max(0.0, total / len(class_ids))


def _slope(logits: Logits, class_ids: ClassIds, temperature: float) -> float:
    """Return the derivative of the mean NLL with respect to 1 / T: E_p[z] − z of the true class."""
    total = 0.0
    for rows in _chunks(*logits.shape):
        raw, truth = logits[rows].astype(np.float64), class_ids[rows]
        z = raw / temperature
        p = np.exp(z - z.max(axis=1, keepdims=True))
        expected = (p * raw).sum(axis=1) / p.sum(axis=1)
        total += float((expected - raw[np.arange(len(truth)), truth]).sum())
    return total / len(class_ids)


def brier(logits: Logits, class_ids: ClassIds, temperature: float) -> float:
    """Return the mean over images of Σ (probability − truth)² over classes, 0 to 2 (Brier 1950)."""
    return max(0.0, float(score_predictions(logits, class_ids, temperature).squared_error.mean()))


def ece(confidence: Float64, correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error over equal-mass bins, independent of image order.

    Σ over bins of share · |accuracy − mean confidence| (Naeini et al. 2015, with the equal-mass
    bins of Nixon et al. 2019). Images of equal confidence share a bin, so ties give fewer bins.
    """
    order = np.argsort(confidence)
    return float(_eces(confidence[order], correct[order][None], _starts(confidence, bins))[0])


def ece_noise_floor(
    confidence: Float64, bins: int = BINS, draws: int = FLOOR_DRAWS, seed: int = 0
) -> float:
    """Return the ECE that perfectly calibrated probabilities stay below in 95 % of cases.

    Simulated `draws` times: each prediction is correct with its stated probability. A measured ECE
    at or below this floor is explained by chance for this number of images.
    """
    rng = np.random.default_rng(seed)
    ordered, starts = np.sort(confidence), _starts(confidence, bins)
    drawn = [
        _eces(ordered, rng.random((rows.stop - rows.start, len(ordered))) < ordered, starts)
        for rows in _chunks(draws, len(ordered))
    ]
    return float(np.quantile(np.concatenate(drawn), 0.95, method="higher"))


def reliability(
    confidence: Float64, correct: NDArray[np.bool_], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Return the equal-mass bins of the reliability diagram, in ascending confidence."""
    order = np.argsort(confidence)
    starts = _starts(confidence, bins)
    stops = [*starts[1:], len(order)]
    return tuple(
        ReliabilityBin(
            images=stop - start,
            confidence=float(confidence[order[start:stop]].mean()),
            accuracy=float(correct[order[start:stop]].mean()),
        )
        for start, stop in zip(starts.tolist(), map(int, stops), strict=True)
    )


def measured(predictions: Predictions, class_ids: ClassIds, temperature: float) -> Probabilities:
    """Return all measures of the probabilities at `temperature`."""
    correct = predictions.predicted == class_ids
    return Probabilities(
        temperature=temperature,
        nll=max(0.0, float(predictions.nll.mean())),
        brier=max(0.0, float(predictions.squared_error.mean())),
        ece=ece(predictions.confidence, correct),
        ece_noise_floor=ece_noise_floor(predictions.confidence),
        reliability=reliability(predictions.confidence, correct),
    )


def _check_that_a_minimum_exists(logits: Logits, class_ids: ClassIds) -> None:
    """Reject the two cases in which the NLL decreases monotonically to T = 0 or T = ∞."""
    all_right, above_mean = True, 0.0
    for rows in _chunks(*logits.shape):
        raw, truth = _read(logits, rows), class_ids[rows]
        of_truth = raw[np.arange(len(truth)), truth].astype(np.float64)
        all_right = all_right and bool((of_truth >= raw.max(axis=1)).all())
        above_mean += float((of_truth - raw.mean(axis=1, dtype=np.float64)).sum())
    if above_mean <= 0:  # the negated slope of the NLL in 1 / T at 1 / T = 0
        raise BuildRefused(
            "The logits of the true classes are no higher than those of the others: check that "
            "class folders and class ids agree."
        )
    if all_right:
        raise BuildRefused(
            f"All {len(class_ids)} calibration images are classified correctly, so no temperature "
            "is best: higher confidence always fits better. Calibrate on more or harder images."
        )


def _eces(ordered: Float64, correct: NDArray[np.bool_], starts: NDArray[np.int64]) -> Float64:
    """Return the ECE of each row of outcomes, [draws]; confidences are in ascending order."""
    right = np.add.reduceat(correct, starts, axis=1, dtype=np.int64)
    gaps = np.abs(right - np.add.reduceat(ordered, starts))
    return np.minimum(1.0, gaps.sum(axis=1) / len(ordered))  # type: ignore[no-any-return]  # stubs


def _starts(confidence: Float64, bins: int) -> NDArray[np.int64]:
    """Return the start of each bin in ascending order; equal values share a bin."""
    ordered = np.sort(confidence)
    wanted = ordered[np.arange(bins) * len(ordered) // bins]
    return np.unique(np.searchsorted(ordered, wanted, side="left"))


def _read(logits: Logits, rows: slice) -> Logits:
    read = logits[rows]
    if not np.isfinite(read).all():
        raise BuildRefused(
            f"The model has logits that are not finite for an image from {rows.start} to "
            f"{rows.stop - 1} of {len(logits)}: check the checkpoint and the preprocessing's mean, "
            "std and scale."
        )
    return read


def _chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // columns)
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))
