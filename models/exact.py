"""Linear algebra whose result is the same, bit for bit, with every NumPy, BLAS and CPU.

BLAS and LAPACK add in an order of their own, so the last bits of a product or of a factor differ
between their releases and between CPUs. What is sealed into a bundle must not: its digest would
differ too. Here every operation is either exact or a single IEEE 754 operation on each element.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Numbers = NDArray[np.floating] | NDArray[np.integer]
_DIGITS = 53  # of a float64's significand
_SLICES = 3
_SHORTEST = 1e-12  # as in `tidegate.service.ood.scores`
_ITERATIONS = 6  # of a subspace
_BLOCK = 64  # columns that are factored at a time


def product(a: Numbers, b: Numbers) -> Float64:
    """Return a @ b, [m, k] @ [k, n], as accurate as in float64.

    The rows of `a` and the columns of `b` are cut into slices of so few bits that BLAS multiplies
    two slices without rounding, in whatever order it adds (Ozaki et al. 2012, algorithm 3).
    """
    inner = a.shape[1]
    if not inner:
        return np.zeros((len(a), b.shape[1]))
    bits = (_DIGITS - math.ceil(math.log2(inner))) // 2
    left, scale_left = _slices(a, bits)
    right, scale_right = _slices(b.T, bits)
    total = np.zeros((len(a), b.shape[1]))
    for order in reversed(range(_SLICES)):  # the smallest terms first
        for place in range(order + 1):
            total += left[place] @ right[order - place].T
        if order:
            total *= 2.0**-bits
    return np.asarray(np.ldexp(total, scale_left + scale_right.T - 2 * bits))


def row_sums(x: NDArray[np.floating]) -> Float64:
    """Return the sum of each row, [n]."""
    return product(x, np.ones((x.shape[1], 1))).ravel()


def column_sums(x: NDArray[np.floating]) -> Float64:
    """Return the sum of each column, [D]."""
    return product(np.ones((1, len(x))), x).ravel()


def unit_rows(x: NDArray[np.floating]) -> Float64:
    """Return the rows divided by their lengths; a row of zeros stays zero."""
    values = np.asarray(x, np.float64)
    lengths = np.sqrt(row_sums(values * values))
    return np.asarray(values / np.maximum(lengths, _SHORTEST)[:, None])


def cholesky(matrix: Float64) -> Float64:
    """Return the lower triangular L with L·Lᵀ = `matrix`, symmetric and positive definite."""
    size = len(matrix)
    factor = np.zeros((size, size))
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        known = factor[start:, :start]
        panel = matrix[start:, start:stop] - product(known, known[: stop - start].T)
        for j in range(stop - start):
            panel[j:, j] /= np.sqrt(panel[j, j])
            panel[j:, j + 1 :] -= panel[j:, j, None] * panel[j + 1 : stop - start, j]
        factor[start:, start:stop] = np.tril(panel)
    return factor


def times_inverse_transpose(rows: Float64, factor: Float64) -> Float64:
    """Return Z, [n, D], with Z·`factor`ᵀ = `rows`, for a lower triangular `factor` [D, D]."""
    size = len(factor)
    found = np.zeros(rows.shape)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        panel = rows[:, start:stop] - product(found[:, :start], factor[start:stop, :start].T)
        own = factor[start:stop, start:stop]
        for j in range(stop - start):
            panel[:, j] /= own[j, j]
            panel[:, j + 1 :] -= panel[:, j, None] * own[j + 1 :, j]
        found[:, start:stop] = panel
    return found


def solve(matrix: Float64, right: Float64) -> Float64:
    """Return x, [n], with `matrix`·x = `right`; the matrix is symmetric and positive definite."""
    factor = cholesky(matrix)
    half = times_inverse_transpose(right[None], factor)
    # Lᵀ with both axes reversed is lower triangular.
    return times_inverse_transpose(half[:, ::-1], factor.T[::-1, ::-1])[0, ::-1]


def leading_subspace(matrix: Float64, rank: int) -> Float64:
    """Return an orthonormal basis [D, rank] in which a symmetric matrix has most of its trace.

    Subspace iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4) from fixed signs. It nearly
    spans the leading eigenvectors, whose bits would depend on LAPACK's release.
    """
    signs = np.random.default_rng(0).integers(0, 2, (len(matrix), rank))
    basis = 2 * signs.astype(np.float64) - 1
    for _ in range(_ITERATIONS):
        basis = _orthonormal(product(matrix, basis))
    return _orthonormal(basis)  # again, as the first loses digits in long products


def _orthonormal(columns: Float64) -> Float64:
    """Return an orthonormal basis of the span, [D, k], by the Cholesky factor of its products."""
    return times_inverse_transpose(columns, cholesky(product(columns.T, columns)))


def _slices(x: Numbers, bits: int) -> tuple[list[Float64], NDArray[np.int_]]:
    """Return whole numbers s_i of at most `bits` bits and exponents e [n, 1], exactly.

    Row by row, x = 2^(e − bits) · Σ s_i · 2^(−i · bits), but for what is left after the last slice.
    """
    values = np.asarray(x, np.float64)
    largest = np.max(np.abs(values), axis=1, keepdims=True, initial=0.0)
    exponents = np.frexp(largest)[1]
    rest, found = np.ldexp(values, bits - exponents), []
    for _ in range(_SLICES):
        found.append(np.rint(rest))
        rest = (rest - found[-1]) * 2.0**bits
    return found, exponents
