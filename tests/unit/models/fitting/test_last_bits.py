"""What is sealed does not depend on the last bits of a library's sums."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import betaincinv

from tidegate.models.evaluation.probabilities import fit_temperature
from tidegate.models.fitting import feature_axes
from tidegate.models.fitting.conformal import pac_p_values
from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.models.fitting.feature_axes import embedding_fit
from tidegate.models.fitting.mahalanobis import fit_distance
from tidegate.models.sealing.assemble import rounded
from tidegate.service.bundle.manifest import Calibration
from tidegate.service.drift.reference import INPUTS
from tidegate.service.ood.gates import combined_score


def features() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rectified features of four classes in whole steps, so that no library's normals matter."""
    rng = np.random.default_rng(0)
    class_ids = rng.integers(0, 4, 1200)
    centres = rng.integers(0, 4096, (4, 24))
    x = centres[class_ids] + rng.integers(-1024, 1024, (1200, 24)) * np.arange(1, 25)
    return (np.maximum(x, 0) / 1024).astype(np.float32), class_ids


def digest(*arrays: NDArray[np.floating] | None) -> str:
    every = (np.ascontiguousarray(array).tobytes() for array in arrays if array is not None)
    return hashlib.sha256(b"".join(every)).hexdigest()[:16]


@pytest.mark.parametrize(("rank", "known"), [(None, "dfc52f07f9894daf"), (6, "0b779a437c3e33b5")])
def test_a_distance_has_the_same_bits_with_every_library(rank: int | None, known: str) -> None:
    head = fit_distance(*features(), tuple("abcd"), relative=True, rank=rank).head()

    found = digest(head.offset, head.whitening, head.means, head.background, head.basis)
    assert found == known


def test_axes_have_the_same_bits_with_every_library() -> None:
    embedding = embedding_fit(features()[0])

    assert digest(embedding.mean, embedding.axes) == "0190153c20a259df"


def test_axes_do_not_depend_on_the_last_bits_of_an_eigenvector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = embedding_fit(features()[0])

    def other_release(*arguments: Any, **options: Any) -> Any:
        variances, directions = eigh(*arguments, **options)
        return variances * (1 + 1e-13), -directions + 1e-13

    monkeypatch.setattr(feature_axes, "eigh", other_release)

    assert np.array_equal(embedding_fit(features()[0]).axes, known.axes)


def test_features_have_unit_covariance_along_the_axes() -> None:
    found, _ = features()

    embedding = embedding_fit(found)

    along = (found - embedding.mean) @ embedding.axes
    assert np.cov(along, rowvar=False) == pytest.approx(np.eye(along.shape[1]), abs=1e-6)


def test_a_temperature_has_nine_digits_whatever_the_order_of_the_images() -> None:
    logits = 9 * np.random.default_rng(0).normal(size=(999, 7)).astype(np.float32)
    class_ids = np.random.default_rng(1).integers(0, 7, 999)
    logits[np.arange(999), class_ids] += 9
    orders = [np.random.default_rng(seed).permutation(999) for seed in range(5)]

    found = {fit_temperature(logits[order], class_ids[order]) for order in orders}

    (temperature,) = found
    assert temperature == float(f"{temperature:.9g}")


def test_pac_p_values_are_rounded_up_by_at_most_a_hundred_thousandth() -> None:
    rank = np.arange(500)
    exact = betaincinv(rank + 1, 500 - rank, 0.9)

    found = pac_p_values(500, 0.1)[:-1]

    assert (found >= exact).all()
    assert (found <= exact * (1 + 2**-16)).all()
    assert np.array_equal(np.ldexp(found, 30), np.rint(np.ldexp(found, 30)))


def test_a_histogram_s_edges_are_deciles_of_values_in_single_precision() -> None:
    values = np.linspace(0, 1, 1000) + 1e-12

    fit = reference_fit(
        np.zeros(1000, np.int64), 2, {"energy": values}, np.zeros((1000, len(INPUTS))), values
    )

    histogram = fit.histograms["energy"]
    assert histogram.edges == tuple(float(np.float32(values[100 * step])) for step in range(1, 10))
    assert histogram.counts == (100,) * 10


def test_measured_numbers_are_sealed_with_nine_digits() -> None:
    sealed = rounded(Calibration(fitted=True, temperature=2 / 3, ece_before=0.1 + 1e-16))

    assert (sealed.temperature, sealed.ece_before) == (0.666666667, 0.1)


def test_a_combined_score_has_single_precision_for_one_image_and_for_many() -> None:
    one = combined_score([-1.1, -2.3])
    many = combined_score([np.array([-1.1]), np.array([-2.3])])

    assert one == many[0] == float(np.float32(3.4))
