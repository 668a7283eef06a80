"""Our scores against pytorch-ood's and scikit-learn's, on the same features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.unit.models.features import CLASSES, world
from tests.unit.models.fitting.test_mahalanobis import IDS, LABELS, NEW, X, unit
from tidegate.models.fitting.mahalanobis import fit_distance, ledoit_wolf
from tidegate.models.importers.torch_runtime import require
from tidegate.service.ood.scores import energy_score

pytestmark = pytest.mark.torch
# Dead channels have no variance, and without shrinkage their inverse is noise: left out here.
ALIVE = slice(0, -3)


@pytest.fixture(scope="module")
def detectors() -> Iterator[Any]:
    require("torchvision")  # imported by pytorch-ood; `require` repairs it if needed
    import pytorch_ood.detector  # noqa: PLC0415

    torch = require("torch")
    torch.set_default_dtype(torch.float64)
    yield pytorch_ood.detector
    torch.set_default_dtype(torch.float32)


def tensor(values: Any) -> Any:
    return require("torch").from_numpy(np.array(values))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("name", ["Mahalanobis", "RMD"])
def test_distances_equal_pytorch_ood_s(detectors: Any, normalise: bool, name: str) -> None:
    """It leaves 1/N out of the covariance; its Mahalanobis halves d². Features are in float64."""
    seen = [unit(v) if normalise else v.astype(np.float64) for v in (X[:, ALIVE], NEW[:, ALIVE])]
    detector = getattr(detectors, name)(None).fit_features(tensor(seen[0]), tensor(IDS))
    factor = len(X) * (2 if name == "Mahalanobis" else 1)
    expected = factor * detector.predict_features(tensor(seen[1])).numpy()

    relative = name == "RMD"
    fitted = fit_distance(
        X[:, ALIVE], IDS, LABELS, normalise=normalise, relative=relative, shrinkage=0.0
    )
    distance, _ = fitted.head().distance(NEW[:, ALIVE])

    if relative:
        scale = fit_distance(X[:, ALIVE], IDS, LABELS, normalise=normalise, shrinkage=0.0)
        mean = scale.head().distance(NEW[:, ALIVE])[0].mean()
        assert np.max(np.abs(distance - expected)) / mean <= 1e-5
    else:
        np.testing.assert_allclose(distance, expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_energy_equals_pytorch_ood_s(detectors: Any, temperature: float) -> None:
    logits = world().logits(NEW)

    expected = detectors.EnergyBased.score(tensor(logits.astype(np.float64)), t=temperature)

    assert np.max(np.abs(energy_score(logits, temperature) - expected.numpy())) <= 1e-5


def test_the_shrinkage_equals_scikit_learn_s() -> None:
    from sklearn.covariance import ledoit_wolf_shrinkage  # noqa: PLC0415

    residuals = X - np.array([X[c == IDS].mean(axis=0) for c in range(CLASSES)])[IDS]
    residuals = residuals.astype(np.float64)
    covariance = residuals.T @ residuals / len(X)

    ours = ledoit_wolf(covariance, np.array_split(residuals, 7))

    assert ours == pytest.approx(ledoit_wolf_shrinkage(residuals, assume_centered=True), rel=1e-9)
