"""The bundle that `tidegate import` makes answers with the library's own probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from tests.unit.models.colour_folders import COLOURS, folders
from tests.unit.models.commands.sources import PAIR, SOURCES, Labelled, Source, single_logit
from tests.unit.models.training.conftest import torch_as_it_was  # noqa: F401  # a fixture
from tidegate.service.cli import main
from tidegate.service.offline.answers import Answer
from tidegate.service.offline.predictor import Predictor

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("torch_as_it_was", "drawn_once", "fake_plots"),
    pytest.mark.filterwarnings("ignore:Palette images with Transparency"),
]
IMAGES = 200
CLOSE = 1e-4
_KINDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("png", {}),
    ("jpg", {"quality": 90, "subsampling": 2}),
    ("webp", {"quality": 80}),
)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> dict[Sequence[str], Path]:
    """Folders of images for networks of all classes, and for those of one logit."""
    root = tmp_path_factory.mktemp("colours")
    whole = root / "all"
    folders(whole, train=20, calibrate=60, test=1)
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        for index in range(IMAGES // len(COLOURS)):
            _put(whole / "test" / label / f"new-{index}", rng, colour)
    for split in ("train", "calibrate", "test"):
        (root / "pair" / split).mkdir(parents=True)
        for label in PAIR:
            (root / "pair" / split / label).symlink_to(whole / split / label)
    return {tuple(COLOURS): whole, PAIR: root / "pair"}


def _put(path: Path, rng: np.random.Generator, colour: tuple[int, int, int]) -> None:
    """Write an image of another size and form each time: coarse noise around a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tint = np.asarray(colour) + rng.normal(0, 20, 3)
    coarse = np.clip(tint + rng.normal(0, 30, (6, 6, 3)), 0, 255).astype(np.uint8)
    size = tuple(rng.integers(20, 300, 2).tolist())
    suffix, options = _KINDS[rng.integers(len(_KINDS))]
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    image.save(path.with_suffix(f".{suffix}"), **options)


@pytest.mark.parametrize("make", SOURCES, ids=lambda make: make.__name__)
def test_the_bundle_answers_as_the_library_does(
    make: Callable[[Path, Labelled], Source],
    colours: dict[Sequence[str], Path],
    tmp_path: Path,
) -> None:
    labels = PAIR if make is single_logit else tuple(COLOURS)
    data = colours[labels]
    train = [
        (path, class_id)
        for class_id, label in enumerate(labels)
        for path in sorted((data / "train" / label).iterdir())
    ]
    (tmp_path / "source").mkdir()
    source = make(tmp_path / "source", train)
    words = ["import", *source.words, "--name", "colours", "--version", "1"]
    words += [f"--{split}={data / split}" for split in ("train", "calibrate", "test")]
    words += ["--out", str(tmp_path), "--accept-weak-gate"]

    assert main([*words, "--alpha-reject", "0.05", "--alpha-review", "0.1"]) == 0

    images = sorted((colours[tuple(COLOURS)] / "test").rglob("*.*"))
    predictor = Predictor(tmp_path / "colours/1", batch_size=8)
    answers = predictor.predict([path.read_bytes() for path in images])
    predictor.close()
    temperature = predictor.bundle.manifest.calibration.temperature
    expected = softmax(source.logits(images) / temperature, axis=1)
    found = np.stack([one.probabilities for one in answers if isinstance(one, Answer)])
    assert len(found) == len(images) >= IMAGES
    assert expected.std(axis=0).min() > 0.05  # another preprocessing would show
    assert np.abs(found - expected).max() < CLOSE
