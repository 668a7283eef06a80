"""`tidegate train` on handwritten digits, with a small network from random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.models.digits.images import data
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SETTINGS = ("augmentation.crop=0.7", "optimisation.rate=0.004", "threads=1")


def merged(root: Path) -> Path:
    """Return one folder per digit with the images of all three splits of `tidegate digits`."""
    folders = data()
    for split in (folders.train, folders.calibrate, folders.test):
        for image in split.rglob("*.png"):
            link = root / image.parent.name / f"{split.name}-{image.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(image.resolve())
    return root


@pytest.mark.parametrize("seed", ["0", "1"])
def test_digits_are_learnt(tmp_path: Path, seed: str) -> None:
    words = ["train", "--data", str(merged(tmp_path / "digits")), "--model", "timm:test_resnet"]
    words += ["--size", "56", "--epochs", "24", "--seed", seed, "--name", "digits"]
    words += ["--version", "1", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "bundles")]
    words += [word for setting in SETTINGS for word in ("--set", setting)]

    assert main([*words, "--accept-weak-gate"]) == 0

    evaluation = open_bundle(tmp_path / "bundles/digits/1").manifest.evaluation
    assert evaluation is not None
    assert evaluation.accuracy.value >= 0.98  # measured: 99.5 % and 98.7 % with seeds 0 and 1
