"""A last layer from text vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models import tiny
from tests.unit.models.colour_folders import LABELS, imported
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import run_once
from tidegate.models.training import zero_shot

DATA = TrainingData(LABELS, (), (), ())
VECTORS = np.random.default_rng(0).normal(size=(len(LABELS), 6)).astype(np.float32)


def put(folder: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {
        "classes": np.array(LABELS[::-1]),
        "vectors": VECTORS[::-1],
        "scale": 20.0,
    }
    np.savez(folder / "texts.npz", **(arrays | changes))
    return folder / "texts.npz"


def test_logits_are_scaled_cosines_in_the_images_order(tmp_path: Path) -> None:
    source = imported()

    made = zero_shot.imported(source, zero_shot.read(put(tmp_path)), DATA, 0)

    batch = np.random.default_rng(1).normal(size=(4, 3, tiny.SIDE, tiny.SIDE)).astype(np.float32)
    logits, features = run_once(made.backbone, ("logits", "features"), batch)
    (raw,) = run_once(source.backbone, ("features",), batch)
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    rows = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_allclose(features, unit, rtol=1e-5)
    np.testing.assert_allclose(logits, 20 * unit @ rows.T, rtol=1e-4, atol=1e-4)
    assert made.labels == LABELS


def test_the_card_and_the_manifest_call_it_unproved(tmp_path: Path) -> None:
    made = zero_shot.imported(imported(), zero_shot.read(put(tmp_path)), DATA, 0)

    assert made.source.startswith("an unproved zero-shot layer (text vectors) on the features of")
    assert "unproved" in made.notes[-1]
    assert made.training is not None
    assert made.training.recipe == "zero-shot"


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no vectors": ({"vectors": np.float32(1)}, r"5 classes and vectors of shape \(\)"),
    "a class twice": ({"classes": np.array(["red"] * 5)}, "each class once"),
    "a zero": ({"vectors": 0 * VECTORS}, "not finite or zero"),
    "other classes": ({"classes": np.array(["a", *LABELS[1:]])}, "a, blue is only in one"),
    "another network": ({"vectors": VECTORS[:, :4]}, "have 4 numbers, and the features .* 6"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildRefused, match=message):
        zero_shot.imported(imported(), zero_shot.read(put(tmp_path, **changes)), DATA, 0)


def test_another_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")

    with pytest.raises(BuildRefused, match=r"x\.npz must be an \.npz with `classes`"):
        zero_shot.read(tmp_path / "x.npz")
    with pytest.raises(BuildRefused, match="No such file"):
        zero_shot.read(tmp_path / "none.npz")
