"""The Mahalanobis fit against its definitions, written out again in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.unit.models.features import CLASSES, WIDTH, world
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.mahalanobis import (
    SHRINKAGE_FLOOR,
    cheaper_ranks,
    fit_distance,
    ledoit_wolf,
    shrunk,
)
from tidegate.models.fitting.moments import ClassMoments
from tidegate.models.sealing.check import check_against_float64
from tidegate.models.sealing.gate_head import head_graph
from tidegate.service.types import Outputs

X, IDS = world().draw(3000, seed=1)
NEW, _ = world().draw(200, seed=2)
LABELS = tuple(map(str, range(CLASSES)))
Float64 = NDArray[np.float64]


def direct(
    new: Float64, x: Float64, ids: NDArray[np.int64], shrinkage: float
) -> tuple[Float64, NDArray[np.int64]]:
    """min over classes of (z − μ)ᵀ Σ⁻¹ (z − μ), by an inverse and one class after the other."""
    means = np.array([x[ids == c].mean(axis=0) for c in range(CLASSES)])
    residuals = x - means[ids]
    covariance = residuals.T @ residuals / len(x)
    sphere = np.trace(covariance) / WIDTH * np.eye(WIDTH)
    precision = np.linalg.inv((1 - shrinkage) * covariance + shrinkage * sphere)
    each = [np.einsum("rd,de,re->r", new - m, precision, new - m) for m in means]
    return np.min(each, axis=0), np.argmin(each, axis=0)


def unit(x: NDArray[Any]) -> Float64:
    x = x.astype(np.float64)
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


@pytest.mark.parametrize("normalise", [True, False])
def test_the_fitted_head_is_the_textbook_distance(normalise: bool) -> None:
    fitted = fit_distance(X, IDS, LABELS, normalise=normalise)
    seen = (unit(X), unit(NEW)) if normalise else (X.astype(np.float64), NEW.astype(np.float64))

    expected, nearest = direct(seen[1], seen[0], IDS, fitted.statistics.shrinkage)

    distance, found = fitted.head().distance(NEW)
    np.testing.assert_allclose(distance, expected, rtol=1e-9)
    assert np.array_equal(found, nearest)


def test_the_relative_distance_subtracts_that_under_one_normal_for_all() -> None:
    plain = fit_distance(X, IDS, LABELS)
    relative = fit_distance(X, IDS, LABELS, relative=True)
    x, new = unit(X), unit(NEW)

    centred = x - x.mean(axis=0)
    total = centred.T @ centred / len(x)
    covariance = shrunk(total, max(SHRINKAGE_FLOOR, ledoit_wolf(total, [centred])))
    apart = new - x.mean(axis=0)
    background = np.einsum("rd,de,re->r", apart, np.linalg.inv(covariance), apart)

    difference = plain.head().distance(NEW)[0] - relative.head().distance(NEW)[0]
    np.testing.assert_allclose(difference, background, rtol=1e-9)


@pytest.mark.parametrize("relative", [True, False])
def test_a_reduced_rank_is_the_distance_under_a_covariance_with_one_variance_outside(
    relative: bool,
) -> None:
    fitted = fit_distance(X, IDS, LABELS, rank=6, relative=relative)
    s, basis = fitted.statistics, fitted.whitened.basis
    assert basis is not None
    inside, new = basis @ basis.T, unit(NEW) - s.centre

    def distance(covariance: Float64, mean: Float64) -> Float64:
        variance = (np.trace(covariance) - np.trace(inside @ covariance)) / (WIDTH - 6)
        reduced = inside @ covariance @ inside + variance * (np.eye(WIDTH) - inside)
        apart = new - inside @ mean
        return np.asarray(np.einsum("rd,de,re->r", apart, np.linalg.inv(reduced), apart))

    each = np.array([distance(s.tied, mean) for mean in s.means])
    expected = each.min(axis=0) - (distance(s.total, 0 * s.centre) if relative else 0)

    found, nearest = fitted.head().distance(NEW)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert np.array_equal(nearest, each.argmin(axis=0))


@pytest.mark.parametrize(
    ("width", "classes", "ranks"),
    [
        (128, 10, []),
        (512, 30, []),
        (768, 1000, [64, 128, 256]),
        (1280, 2, [64, 128, 256, 512]),
        (2048, 1000, [64, 128, 256, 512]),
    ],
)
def test_a_small_distance_keeps_its_rank(width: int, classes: int, ranks: list[int]) -> None:
    assert cheaper_ranks(width, classes) == ranks


def test_a_reduced_rank_is_named() -> None:
    assert fit_distance(X, IDS, LABELS, rank=6).name == "distance, l2-normalised, rank 6"


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("rank", [None, 6])
def test_float32_in_the_graph_follows_float64(
    normalise: bool, relative: bool, rank: int | None
) -> None:
    """Dead channels make the covariance singular; the shrinkage's floor keeps float32 accurate."""
    import onnxruntime as ort  # noqa: PLC0415 - one test of the graph among many without

    head = fit_distance(X, IDS, LABELS, normalise=normalise, relative=relative, rank=rank).head()
    logits = world().logits(NEW)
    session = ort.InferenceSession(head_graph(head), providers=["CPUExecutionProvider"])

    scores = session.run(None, {"logits": logits, "features": NEW})

    check_against_float64(Outputs(logits, NEW, *scores), head)  # raises beyond 1e-5


@pytest.mark.lengthy
@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(0, 5))
def test_moments_are_the_same_however_the_rows_are_cut(sizes: list[int], seed: int) -> None:
    x, ids = world().draw(sum(sizes), seed)
    whole, parts = ClassMoments(CLASSES, WIDTH), ClassMoments(CLASSES, WIDTH)
    whole.add(x, ids)

    start = 0
    for index, size in enumerate(sizes):
        rows = slice(start, start + size)
        start += size
        if index % 2:
            parts.add(x[rows], ids[rows])
        else:
            other = ClassMoments(CLASSES, WIDTH)
            other.add(x[rows], ids[rows])
            parts.merge(other)

    assert np.array_equal(parts.counts, whole.counts)
    np.testing.assert_allclose(parts.means, whole.means, rtol=0, atol=1e-12)
    np.testing.assert_allclose(parts.scatter, whole.scatter, rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        parts.total_covariance, np.cov(x.astype(np.float64), rowvar=False, bias=True), atol=1e-10
    )


def test_moments_far_from_zero_do_not_cancel() -> None:
    x, ids = world().draw(2000, 3)
    near, far = ClassMoments(CLASSES, WIDTH), ClassMoments(CLASSES, WIDTH)

    near.add(x, ids)
    for rows in np.array_split(np.arange(2000), 40):
        far.add(x[rows].astype(np.float64) + 1e6, ids[rows])

    np.testing.assert_allclose(far.scatter, near.scatter, atol=1e-4 * np.abs(near.scatter).max())


def test_the_intensity_is_small_for_many_rows_and_large_for_few() -> None:
    def intensity(n: int) -> float:
        x = world().draw(n, 4)[0].astype(np.float64)
        x -= x.mean(axis=0)
        return ledoit_wolf(x.T @ x / n, [x])

    assert 0 < intensity(20_000) < 0.01 < 0.1 < intensity(20) <= 1


def test_few_rows_still_give_a_finite_distance() -> None:
    x, ids = np.repeat(X[:10], 5, axis=0), np.repeat(np.arange(10), 5)

    with pytest.raises(BuildRefused, match="do not vary within classes"):
        fit_distance(x, ids, LABELS)

    x = x + np.random.default_rng(0).normal(0, 0.1, x.shape).astype(np.float32)
    assert np.isfinite(fit_distance(x, ids, LABELS).head().distance(NEW)[0]).all()


def test_a_class_with_too_few_images_is_named() -> None:
    kept = (IDS != 3) | (np.cumsum(IDS == 3) <= 4)

    with pytest.raises(
        BuildRefused, match="1 classes have fewer than 5 training images, such as '3'"
    ):
        fit_distance(X[kept], IDS[kept], LABELS)
