"""Fitting and calibrating the demo's gate, on invented photographs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.demo import calibration_file, fit, temperature
from tidegate.models.demo.calibrate import MeasurementBudget, calibrate, fold_scores
from tidegate.models.demo.card import model_card
from tidegate.models.demo.evaluate import Pictures, held_out_uniformity, installed_pictures
from tidegate.models.demo.fit import analytic_mean
from tidegate.models.demo.model import gate_head
from tidegate.models.demo.photographs import Photograph
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.ood_metrics import (
    auroc,
    fpr95_catching_outside,
    fpr95_keeping_inside,
)
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.mahalanobis import RANKS
from tidegate.models.probes.photographs import PHOTOS
from tidegate.service.types import Outputs, Pixels

pytestmark = pytest.mark.process

RNG = np.random.default_rng(5)


def outputs(count: int, classes: int = 4) -> Outputs:
    logits = RNG.normal(size=(count, classes)).astype(np.float32)
    scores = RNG.normal(size=(count, 2)).astype(np.float32)
    features = RNG.normal(size=(count, 3)).astype(np.float32)
    return Outputs(logits, features, scores, logits.argmax(axis=1))


CLASSES = {"chelsea.png": 282, "coffee.png": 967, "camera.png": 872, "rocket.jpg": 657}


def invented_photographs(count: int) -> list[Photograph]:
    """Blends of the committed photographs: of no use for a gate, but they have features.

    They are named after the more visible photograph.
    """
    real = [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in PHOTOS]
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        first, second = rng.choice(len(real), 2, replace=False)
        share = rng.uniform()
        pixels = np.rint(share * real[first] + (1 - share) * real[second]).astype(np.uint8)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        name = PHOTOS[first if share > 0.5 else second].name
        found.append(Photograph("invented", name, Pixels(pixels), digest))
    return sorted(found, key=lambda item: item.digest)


def picture_folders(root: Path) -> Pictures:
    """Folders that look like the three packages', filled with copies of committed photographs."""
    pictures = Pictures(root / "skimage", root / "sklearn", root / "foolbox")
    chelsea = next(path for path in PHOTOS if path.name == "chelsea.png").read_bytes()
    names = "chelsea coffee camera astronaut brick grass gravel page text logo color phantom cell"
    names += " ihc moon coins clock_motion"
    other = ("rocket.jpg", "retina.jpg", "hubble_deep_field.jpg")
    wanted = [pictures.skimage / "data" / f"{name}.png" for name in names.split()]
    wanted += [pictures.skimage / "data" / name for name in other]
    wanted += [pictures.sklearn / "datasets/images" / name for name in ("china.jpg", "flower.jpg")]
    wanted += [pictures.foolbox / "data" / f"imagenet_00_{label}.jpg" for label in (282, 1)]
    for path in wanted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chelsea)
    crops = np.linspace(0, 1, 8 * 25 * 25).reshape(8, 25, 25)
    np.save(pictures.skimage / "data/lfw_subset.npy", crops)
    return pictures


def test_the_whole_recipe_runs(
    weights: dict[str, NDArray[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {("invented", name.rpartition(".")[0]): c for name, c in CLASSES.items()}
    monkeypatch.setattr(temperature, "class_ids_by_photograph", lambda: known)
    monkeypatch.setattr(temperature, "_DRAWS", 39)
    monkeypatch.setattr(fit, "SHRINKAGES", (0.3,))
    monkeypatch.setattr(fit, "RANKS", RANKS[:2])

    calibration = calibrate(
        invented_photographs(248), weights, picture_folders(tmp_path), MeasurementBudget(4, 6, 5)
    )

    assert calibration.scores_a.shape[1] == len(calibration.combined_b) == 99
    assert np.all(np.diff(calibration.scores_a) >= 0)
    assert calibration.report["splits"]["fit"]["photographs"] == 50
    assert set(calibration.report["witnesses"]) == {path.name for path in PHOTOS}
    assert calibration.report["temperature"]["measured"]["all"]["images"] > 40
    assert "| photographs | china.jpg |" in model_card(calibration.report)


def test_too_few_photographs_are_refused(weights: dict[str, NDArray[Any]], tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match="needs 99 photographs per fold"):
        calibrate(
            invented_photographs(200), weights, picture_folders(tmp_path), MeasurementBudget()
        )


def test_fold_scores_are_sorted_and_finite() -> None:
    head = gate_head({"_fc.weight": RNG.normal(size=(7, 5))}, np.zeros(5), 1.0)

    folds = fold_scores(head, ("energy", "mahalanobis"), outputs(50), outputs(50))

    assert all(np.all(np.diff(fold) >= 0) for fold in folds.values())
    assert np.isfinite(folds["combined_b"]).all()


def test_p_values_of_exchangeable_scores_are_not_too_small() -> None:
    gate = calibration_file.load().gate
    gate = replace(gate, folds_a=dict(list(gate.folds_a.items())[:2]), combination=("energy",))

    measured = held_out_uniformity(gate, outputs(300), outputs(300), partitions=40)

    for alpha, share in measured["share_at_or_below"].items():
        # 40 overlapping partitions of 600 scores: the share is known to about ±0.03.
        assert share <= float(alpha) + 0.03
        assert share >= float(alpha) - 0.05


def test_the_analytic_mean_is_that_of_sampled_features() -> None:
    bias, scale = RNG.normal(1, 2, 50), RNG.normal(0, 2, 50)
    sampled = np.clip(RNG.normal(bias, np.abs(scale), (200_000, 50)), 0, 6).mean(axis=0)

    analytic = analytic_mean({"_bn1.bias": bias, "_bn1.weight": scale})

    np.testing.assert_allclose(analytic, sampled, atol=0.03)  # 5 σ of 200,000 samples of std ≤ 3


def test_full_shrinkage_is_the_angle_to_the_nearest_weight() -> None:
    weights = {"_fc.weight": RNG.normal(size=(7, 5))}
    head = gate_head(weights, np.zeros(5), shrinkage=1.0)
    directions = weights["_fc.weight"] / np.linalg.norm(weights["_fc.weight"], axis=1)[:, None]
    features = RNG.normal(size=(9, 5))
    unit = features / np.linalg.norm(features, axis=1)[:, None]

    # The variance of a direction is 1, so the distance is that of two points on the unit sphere.
    expected = 2 - 2 * (unit @ directions.T).max(axis=1)
    np.testing.assert_allclose(head.distance(features)[0], expected)


def test_a_reduced_rank_loses_nothing_if_the_weights_vary_in_so_many_directions() -> None:
    weights = {"_fc.weight": RNG.normal(size=(60, 6)) @ RNG.normal(size=(6, 40))}
    features = RNG.normal(size=(9, 40))
    heads = [gate_head(weights, np.zeros(40), 0.01, rank) for rank in (None, 6)]

    full, reduced = (head.distance(features)[0] for head in heads)

    np.testing.assert_allclose(reduced, full, rtol=1e-6)


def test_whitening_is_the_inverse_covariance_of_the_weight_directions() -> None:
    weights = {"_fc.weight": RNG.normal(size=(40, 5))}
    whitening = gate_head(weights, np.zeros(5), shrinkage=0.0).whitening
    assert whitening is not None
    directions = weights["_fc.weight"] / np.linalg.norm(weights["_fc.weight"], axis=1)[:, None]
    covariance = np.cov((directions @ whitening).T, bias=True)

    np.testing.assert_allclose(covariance, np.eye(5) * covariance[0, 0], atol=1e-9)


@pytest.mark.parametrize("kind", synthetic_ood.KINDS)
def test_synthetic_ood_images_are_the_same_every_time_and_differ_for_another_seed(
    kind: str,
) -> None:
    first, again, other = (synthetic_ood.generate(kind, 3, seed, PREPROCESS) for seed in (1, 1, 2))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_shuffling_keeps_every_pixel() -> None:
    (picture,) = synthetic_ood.generate("blobs", 1, 0, PREPROCESS)
    (mixed,) = synthetic_ood.shuffled([picture], 0)

    assert not np.array_equal(mixed, picture)
    np.testing.assert_array_equal(np.sort(mixed, axis=None), np.sort(picture, axis=None))


def test_auroc_and_both_fpr95s_of_known_scores() -> None:
    inside, outside = np.arange(100.0), np.arange(90.0, 190.0)

    assert auroc(inside, outside) == pytest.approx(1 - 0.5 * 0.1 * 0.1)
    assert fpr95_keeping_inside(inside, outside) == pytest.approx(0.06)  # 90 … 95 pass
    assert fpr95_catching_outside(inside, outside) == pytest.approx(0.06)  # 94 … 99 refused


def test_scores_without_difference_have_an_auroc_of_one_half() -> None:
    assert auroc(np.ones(7), np.ones(3)) == 0.5


def test_a_calibration_survives_being_written_and_read(tmp_path: Path) -> None:
    calibration = calibration_file.load()
    (tmp_path / "c.npz").write_bytes(calibration.arrays_file())
    (tmp_path / "c.json").write_bytes(calibration.report_file())

    again = calibration_file.read(tmp_path / "c.npz", tmp_path / "c.json")

    assert again.report == calibration.report
    np.testing.assert_array_equal(again.combined_b, calibration.combined_b)


def test_a_broken_calibration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({}))
    (tmp_path / "c.npz").write_bytes(b"not an archive")

    with pytest.raises(BuildRefused, match="calibration cannot be read"):
        calibration_file.read(tmp_path / "c.npz", tmp_path / "c.json")


def test_a_missing_package_of_pictures_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])

    with pytest.raises(BuildRefused, match="foolbox"):
        installed_pictures()
