"""Fit the Mahalanobis score on training features: class means and a whitened tied covariance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tidegate.models import exact
from tidegate.models.data.rows import Float32, Float64, chunks
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.moments import ClassMoments
from tidegate.models.sealing.gate_head import GateHead

LEAST_PER_CLASS = 5
# With less, float32 in the graph could differ from float64 by more than 1e-5: dead channels make
# the covariance singular, and whitening multiplies rounding by the root of its condition number.
SHRINKAGE_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class DistanceOptions:
    """Options of the distance; None: chosen like the scores that decide."""

    normalise: bool | None = None
    relative: bool | None = None


@dataclass(frozen=True, slots=True)
class DistanceFit:
    """The fitted score: the parameters of the gate head, and how they were fitted."""

    centre: Float64  # [D], subtracted from raw features; zero for normalised ones
    offset: Float64 | None  # [D], subtracted from normalised features
    whitening: Float64  # [D, D]
    means: Float64  # [C, D], whitened
    background: Float64 | None  # [D, D]
    shrinkage: float
    samples: int

    @property
    def name(self) -> str:
        """Return its name among candidates."""
        features = "raw" if self.offset is None else "l2-normalised"
        return f"distance, {features}" + (", relative" if self.background is not None else "")

    def head(self) -> GateHead:
        """Return the gate head with this distance."""
        return GateHead(
            energy_temperature=1.0,
            centre=self.centre,
            whitening=self.whitening,
            means=self.means,
            normalise=self.offset is not None,
            offset=self.offset,
            background=self.background,
        )


def fit_distance(
    features: Float32,
    class_ids: NDArray[np.int64],
    labels: tuple[str, ...],
    *,
    normalise: bool = True,
    relative: bool = False,
    shrinkage: float | None = None,
) -> DistanceFit:
    """Fit on training features [n, D], which may be memory-mapped; they are read twice.

    The covariance is shrunk towards a sphere of the same trace by `shrinkage` or, if None, by
    Ledoit and Wolf's intensity (2004, lemma 3.3), at least SHRINKAGE_FLOOR. `relative` subtracts
    the distance under one normal distribution of all classes. Raises BuildRefused if a class has
    too few images.
    """
    _check_classes(class_ids, labels)
    moments = ClassMoments(len(labels), features.shape[1])
    for rows, ids in chunks(features, class_ids):
        moments.add(_seen(rows, normalise), ids)
    centre = moments.centre

    def intensity(covariance: Float64, means: Float64) -> float:
        if shrinkage is not None:
            return shrinkage
        rows = (_seen(x, normalise) - means[ids] for x, ids in chunks(features, class_ids))
        return max(SHRINKAGE_FLOOR, ledoit_wolf(covariance, rows))

    _check_variation(moments)
    tied, total = moments.tied_covariance, moments.total_covariance
    of_tied = intensity(tied, moments.means)
    same = np.broadcast_to(centre, moments.means.shape)
    whitening = whitening_of(tied, of_tied)
    return DistanceFit(
        centre=np.zeros_like(centre) if normalise else centre,
        offset=centre if normalise else None,
        whitening=whitening,
        means=exact.product(moments.means - centre, whitening),
        background=whitening_of(total, intensity(total, same)) if relative else None,
        shrinkage=of_tied,
        samples=moments.samples,
    )


def fit_distances(
    features: Float32,
    class_ids: NDArray[np.int64],
    labels: tuple[str, ...],
    options: DistanceOptions,
) -> list[DistanceFit]:
    """Return every distance that `options` leaves open, as `fit_distance` fits it."""
    found = []
    for normalise in (True, False) if options.normalise is None else (options.normalise,):
        relative = options.relative is not False
        fitted = fit_distance(features, class_ids, labels, normalise=normalise, relative=relative)
        if not options.relative:
            found.append(replace(fitted, background=None))
        if relative:
            found.append(fitted)
    return found


def whitening_of(covariance: Float64, shrinkage: float) -> Float64:
    """Return W [D, D] with |x·W|² = xᵀ Σ⁻¹ x for Σ = (1 − λ)·S + λ·(tr S / D)·I."""
    sphere = _mean_variance(covariance)
    shrunk = (1 - shrinkage) * covariance + shrinkage * sphere * np.eye(len(covariance))
    factor = exact.cholesky(shrunk)  # Σ = L·Lᵀ, so W = (L⁻¹)ᵀ
    return exact.times_inverse_transpose(np.eye(len(factor)), factor)


def ledoit_wolf(covariance: Float64, centred: Iterable[Float64]) -> float:
    """Return the intensity λ in [0, 1] that minimises the expected error of the shrunk covariance.

    `covariance` [D, D] is that of the rows in `centred`, chunks [m, D] with zero mean.
    Σ_k |x_k x_kᵀ − S|² depends on the rows only through Σ_k |x_k|⁴.
    """
    n, fourth = 0, 0.0
    for x in centred:
        n += len(x)
        fourth += math.fsum(np.square(exact.row_sums(x * x)))
    squared = math.fsum(exact.row_sums(covariance * covariance))
    sphere = _mean_variance(covariance)
    apart = squared - len(covariance) * sphere**2  # |S − mean eigenvalue · I|²
    noise = (fourth / n - squared) / n
    return float(min(noise, apart) / apart) if apart > 0 else 1.0


def _mean_variance(covariance: Float64) -> float:
    return math.fsum(covariance.diagonal()) / len(covariance)


def _check_variation(moments: ClassMoments) -> None:
    """Reject features that differ by no more than float32's rounding within each class."""
    within = _mean_variance(moments.tied_covariance)
    if not within > 1e-12 * float(np.square(moments.means).mean()):
        raise BuildRefused(
            "The features do not vary within classes: check that --features names the right tensor."
        )


def _seen(rows: NDArray[np.floating], normalise: bool) -> Float64:
    """Return the features, [n, D], with the score's own normalisation."""
    return exact.unit_rows(rows) if normalise else np.asarray(rows, np.float64)


def _check_classes(class_ids: NDArray[np.int64], labels: tuple[str, ...]) -> None:
    counts = np.bincount(class_ids, minlength=len(labels))
    if few := [labels[c] for c in np.flatnonzero(counts < LEAST_PER_CLASS)]:
        raise BuildRefused(
            f"{len(few)} classes have fewer than {LEAST_PER_CLASS} training images, such as "
            f"{few[0]!r}: their means cannot be fitted. Add images, or train without these classes."
        )
