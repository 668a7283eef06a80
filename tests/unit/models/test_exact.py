"""Linear algebra with the same bits everywhere: exactness, accuracy, and known digests."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models import exact

Float64 = NDArray[np.float64]


def rows(n: int, width: int, seed: int = 0) -> Float64:
    """Whole multiples of 2^-20, so that no library's random normals matter."""
    whole = np.random.default_rng(seed).integers(-(2**20), 2**20, (n, width))
    return whole.astype(np.float64) / 2**20


def covariance(width: int) -> Float64:
    x = rows(2 * width, width)
    return exact.product(x.T, x) / len(x)


def digest(values: Float64) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def test_a_product_does_not_depend_on_the_order_of_its_sums() -> None:
    a, b = rows(7, 999) / 3, rows(999, 5, seed=1) / 7
    order = np.random.default_rng(2).permutation(999)

    assert np.array_equal(exact.product(a[:, order], b[order]), exact.product(a, b))


def test_a_product_is_as_accurate_as_correctly_rounded_sums() -> None:
    a, b = rows(3, 500) / 3, rows(500, 4, seed=1) / 7

    expected = [[math.fsum(x * y) for y in b.T] for x in a]

    assert exact.product(a, b) == pytest.approx(np.array(expected), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e150])
def test_a_product_keeps_small_and_large_numbers(scale: float) -> None:
    a = np.array([[1.0, 2.0], [0.0, 0.0]]) * scale

    assert exact.product(a, np.eye(2)).tolist() == a.tolist()


def test_an_empty_product_is_zero() -> None:
    assert exact.product(np.empty((2, 0)), np.empty((0, 3))).tolist() == [[0.0] * 3] * 2


def test_sums_of_rows_and_columns_are_sums() -> None:
    x = rows(11, 13)

    assert exact.row_sums(x).tolist() == [math.fsum(row) for row in x]
    assert exact.column_sums(x).tolist() == [math.fsum(column) for column in x.T]


def test_unit_rows_have_length_one_and_zero_rows_stay_zero() -> None:
    found = exact.unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))

    assert found.tolist() == [[0.6, 0.8], [0.0, 0.0]]


@pytest.mark.parametrize("width", [1, 5, 64, 150])
def test_a_factor_is_that_of_lapack(width: int) -> None:
    matrix = covariance(width)

    factor = exact.cholesky(matrix)

    assert factor == pytest.approx(np.linalg.cholesky(matrix), abs=1e-12)


@pytest.mark.parametrize("width", [1, 5, 64, 150])
def test_rows_are_multiplied_by_the_inverse_of_a_factor(width: int) -> None:
    factor, x = exact.cholesky(covariance(width)), rows(9, width, seed=3)

    found = exact.times_inverse_transpose(x, factor)

    assert found @ factor.T == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize("width", [1, 5, 64, 150])
def test_a_system_of_equations_is_solved(width: int) -> None:
    matrix, right = covariance(width), rows(1, width, seed=4)[0]

    assert matrix @ exact.solve(matrix, right) == pytest.approx(right, abs=1e-11)


def test_a_leading_subspace_has_nearly_the_largest_trace_and_is_orthonormal() -> None:
    matrix = covariance(150) + 3 * np.diag(np.arange(150) % 10 == 0)

    basis = exact.leading_subspace(matrix, 15)

    largest = np.linalg.eigvalsh(matrix)[-15:].sum()
    assert np.trace(basis.T @ matrix @ basis) == pytest.approx(largest, rel=0.01)
    assert basis.T @ basis == pytest.approx(np.eye(15), abs=1e-12)


def test_a_leading_subspace_of_nearly_dead_directions_is_orthonormal() -> None:
    """As of a network with dead features, whose covariance was shrunk a little."""
    matrix = np.diag([*np.geomspace(1e3, 1, 20), *[1e-3] * 130])

    basis = exact.leading_subspace(matrix, 64)

    assert basis.T @ basis == pytest.approx(np.eye(64), abs=1e-12)
    assert np.trace(basis.T @ matrix @ basis) == pytest.approx(np.trace(matrix), rel=1e-4)


@pytest.mark.parametrize(
    ("compute", "known"),
    [
        (lambda: exact.product(rows(40, 90) / 3, rows(90, 50) / 7), "9229448b3eb6e83c"),
        (lambda: exact.unit_rows(rows(40, 90)), "cf78bf0cc2b0cef6"),
        (lambda: exact.cholesky(covariance(150)), "8ae9eaa55f3291b0"),
        (
            lambda: exact.times_inverse_transpose(rows(40, 150), exact.cholesky(covariance(150))),
            "b246ac0776044cd0",
        ),
        (lambda: exact.leading_subspace(covariance(150), 20), "a1cc120270a33bca"),
        (lambda: exact.solve(covariance(150), rows(1, 150)[0]), "d80ba452d8359156"),
    ],
    ids=["product", "unit rows", "factor", "by a factor", "subspace", "solved"],
)
def test_the_bits_are_the_same_with_every_library(
    compute: Callable[[], Float64], known: str
) -> None:
    assert digest(compute()) == known
