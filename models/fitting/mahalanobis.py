"""Fit the Mahalanobis score on training features: class means and a whitened tied covariance."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

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
# Of a distance that whitens a subspace only. For a single image, a product takes the time of
# reading its matrix: D·(D + C) numbers of full rank, and k·(D + C + k) of rank k.
RANKS = (64, 128, 256, 512)
_LARGE = 1_000_000  # numbers, 4 MB; fewer take some hundredths of a millisecond


@dataclass(frozen=True, slots=True)
class DistanceOptions:
    """Options of the distance; None: chosen like the scores that decide."""

    normalise: bool | None = None
    relative: bool | None = None


@dataclass(frozen=True, slots=True)
class Whitened:
    """Class means and what whitens features around their centre: every direction, or a subspace."""

    whitening: Float64  # [k, k]; k is D without a basis
    means: Float64  # [C, k], whitened
    background: Float64 | None  # [k, k], for a relative distance
    basis: Float64 | None = None  # [D, k], orthonormal
    residual: float = 0.0  # factor of the squared length outside the basis

    @classmethod
    def of(
        cls, means: Float64, tied: Float64, total: Float64 | None, basis: Float64 | None = None
    ) -> Whitened:
        """Whiten `means` [C, D], around the centre, by covariances [D, D].

        `total` is for a relative distance. Outside the basis all directions have the mean variance
        and all classes the mean 0.
        """
        if basis is None:
            background = None if total is None else _inverse_root(total)
            whitening = _inverse_root(tied)
            return cls(whitening, exact.product(means, whitening), background)
        whitening, residual = _inside_and_outside(tied, basis)
        background = None
        if total is not None:
            background, of_total = _inside_and_outside(total, basis)
            residual -= of_total
        along = exact.product(means, basis)
        return cls(whitening, exact.product(along, whitening), background, basis, residual)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The means and covariances of the features, as a distance sees them."""

    normalised: bool
    centre: Float64  # [D]
    means: Float64  # [C, D], around the centre
    tied: Float64  # [D, D], shrunk
    total: Float64  # [D, D], of all classes together; shrunk
    shrinkage: float  # of `tied`
    samples: int


@dataclass(frozen=True, slots=True)
class DistanceFit:
    """A fitted score: the parameters of the gate head, and how they were fitted."""

    statistics: Statistics
    relative: bool
    whitened: Whitened

    @classmethod
    def of(cls, statistics: Statistics, *, relative: bool, rank: int | None = None) -> DistanceFit:
        """Return the distance that whitens `rank` directions, or all."""
        s = statistics
        basis = None if rank is None else exact.leading_subspace(s.total, rank)
        whitened = Whitened.of(s.means, s.tied, s.total if relative else None, basis)
        return cls(s, relative, whitened)

    @property
    def rank(self) -> int | None:
        """Return the number of directions that are whitened, or None for all."""
        return None if self.whitened.basis is None else self.whitened.basis.shape[1]

    @property
    def name(self) -> str:
        """Return its name among candidates."""
        features = "l2-normalised" if self.statistics.normalised else "raw"
        relative = ", relative" if self.relative else ""
        rank = "" if self.rank is None else f", rank {self.rank}"
        return f"distance, {features}{relative}{rank}"

    def reduced(self) -> list[DistanceFit]:
        """Return the distances of a lower rank that are clearly cheaper, the cheapest first."""
        classes, width = self.statistics.means.shape
        return [
            DistanceFit.of(self.statistics, relative=self.relative, rank=rank)
            for rank in cheaper_ranks(width, classes)
        ]

    def head(self) -> GateHead:
        """Return the gate head with this distance."""
        s, w = self.statistics, self.whitened
        return GateHead(
            energy_temperature=1.0,
            centre=np.zeros_like(s.centre) if s.normalised else s.centre,
            whitening=w.whitening,
            means=w.means,
            normalise=s.normalised,
            offset=s.centre if s.normalised else None,
            background=w.background,
            basis=w.basis,
            residual=w.residual,
        )


def fit_statistics(
    features: Float32,
    class_ids: NDArray[np.int64],
    labels: tuple[str, ...],
    *,
    normalise: bool = True,
    shrinkage: float | None = None,
) -> Statistics:
    """Compute statistics of training features [n, D], which may be memory-mapped; read thrice.

    The covariances are shrunk towards a sphere of the same trace by `shrinkage` or, if None, by
    Ledoit and Wolf's intensity (2004, lemma 3.3), at least SHRINKAGE_FLOOR. Raises BuildRefused if
    a class has too few images.
    """
    check_classes(zip(labels, np.bincount(class_ids, minlength=len(labels)), strict=True))
    moments = ClassMoments(len(labels), features.shape[1])
    for rows, ids in chunks(features, class_ids):
        moments.add(_seen(rows, normalise), ids)

    def intensity(covariance: Float64, means: Float64) -> float:
        if shrinkage is not None:
            return shrinkage
        rows = (_seen(x, normalise) - means[ids] for x, ids in chunks(features, class_ids))
        return max(SHRINKAGE_FLOOR, ledoit_wolf(covariance, rows))

    _check_variation(moments)
    tied, total, centre = moments.tied_covariance, moments.total_covariance, moments.centre
    of_tied = intensity(tied, moments.means)
    of_total = intensity(total, np.broadcast_to(centre, moments.means.shape))
    return Statistics(
        normalised=normalise,
        centre=centre,
        means=moments.means - centre,
        tied=shrunk(tied, of_tied),
        total=shrunk(total, of_total),
        shrinkage=of_tied,
        samples=moments.samples,
    )


def fit_distance(
    features: Float32,
    class_ids: NDArray[np.int64],
    labels: tuple[str, ...],
    *,
    normalise: bool = True,
    relative: bool = False,
    shrinkage: float | None = None,
    rank: int | None = None,
) -> DistanceFit:
    """Fit one distance, as `fit_statistics` describes.

    `relative` subtracts the distance under one normal distribution of all classes.
    """
    statistics = fit_statistics(
        features, class_ids, labels, normalise=normalise, shrinkage=shrinkage
    )
    return DistanceFit.of(statistics, relative=relative, rank=rank)


def fit_distances(
    features: Float32,
    class_ids: NDArray[np.int64],
    labels: tuple[str, ...],
    options: DistanceOptions,
) -> list[DistanceFit]:
    """Return every distance of full rank that `options` leaves open."""
    both = (True, False)
    found = []
    for normalise in both if options.normalise is None else (options.normalise,):
        statistics = fit_statistics(features, class_ids, labels, normalise=normalise)
        found += [
            DistanceFit.of(statistics, relative=relative)
            for relative in ((False, True) if options.relative is None else (options.relative,))
        ]
    return found


def cheaper_ranks(width: int, classes: int) -> list[int]:
    """Return the ranks that read at most about half of what full rank reads, if that is much."""
    if width * (width + classes) < _LARGE:
        return []
    return [rank for rank in RANKS if rank <= width // 2]


def shrunk(covariance: Float64, shrinkage: float) -> Float64:
    """Return (1 − λ)·S + λ·(tr S / D)·I."""
    sphere = _mean_variance(covariance)
    return (1 - shrinkage) * covariance + shrinkage * sphere * np.eye(len(covariance))


def _inverse_root(covariance: Float64) -> Float64:
    """Return W [D, D] with |x·W|² = xᵀ Σ⁻¹ x."""
    factor = exact.cholesky(covariance)  # Σ = L·Lᵀ, so W = (L⁻¹)ᵀ
    return exact.times_inverse_transpose(np.eye(len(factor)), factor)


def _inside_and_outside(covariance: Float64, basis: Float64) -> tuple[Float64, float]:
    """Return what whitens the coordinates along the basis, and the precision outside it."""
    inside = exact.product(exact.product(basis.T, covariance), basis)
    width, rank = basis.shape
    outside = math.fsum(covariance.diagonal()) - math.fsum(inside.diagonal())
    return _inverse_root(inside), (width - rank) / outside


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


def check_classes(images: Iterable[tuple[str, int]]) -> None:
    """Raise BuildRefused if a class, given by its label and number, has too few images."""
    if few := [label for label, count in images if count < LEAST_PER_CLASS]:
        raise BuildRefused(
            f"{len(few)} classes have fewer than {LEAST_PER_CLASS} training images, such as "
            f"{few[0]!r}: their means cannot be fitted. Add images, or train without these classes."
        )
