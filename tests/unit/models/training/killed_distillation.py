"""Kill whole distillations at random moments until each is finished; prints the results as JSON.

Run as a script with a folder and a number of kills. A child process runs `tidegate distil`, from
the teacher's bundle to the student's; its parent kills it with SIGKILL after a random part of the
time that a whole one takes, and starts the same command again.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest

from tests.unit.models.colour_folders import folders
from tests.unit.models.conftest import DrawnImages
from tests.unit.models.training.killed_training import killed
from tidegate.models import pipeline
from tidegate.models.fitting import synthetic_ood
from tidegate.models.importers.torch_runtime import require
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main as tidegate
from tidegate.service.errors import BundleRefused
from tidegate.service.files import sha256_of

_SETTINGS = ("threads=1", "optimisation.rate=0.01", "optimisation.batch=16", "save_every_s=0.01")
_NETWORKS = ("model", "alone/model")  # the student, and the same one trained alone


def start(root: Path, words: list[str], folder: Path) -> int:
    """Return the process that runs a command, whose run and bundle are below `folder`."""
    given = [*words, "--data", str(root / "images"), "--version", "1", "--run", str(folder / "run")]
    given += ["--out", str(folder / "bundles"), "--size", "32", "--epochs", "3", "--workers", "0"]
    given += ["--alpha-reject", "0.05", "--alpha-review", "0.1", "--accept-weak-gate"]
    given += [word for setting in _SETTINGS for word in ("--set", setting)]
    child = os.fork()
    if child == 0:
        sys.stdout = sys.stderr = (root / "progress").open("a")
        os._exit(tidegate(given))
    return child


def ended(child: int) -> None:
    """Wait for a process that must succeed."""
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def half(folder: Path) -> list[str]:
    """Return what is there and not complete: a network or a bundle."""
    found = [
        name
        for name in _NETWORKS
        if (folder / "run" / name).exists()
        and not (folder / "run" / name / "config.json").is_file()
    ]
    try:
        if (folder / "bundles/small/1").exists():
            open_bundle(folder / "bundles/small/1")
    except BundleRefused as error:
        found.append(str(error))
    return found


def result(folder: Path) -> list[str]:
    """Return the digests of both networks and of the sealed graph."""
    networks = [folder / "run" / name / "model.safetensors" for name in _NETWORKS]
    return [sha256_of(path) for path in (*networks, folder / "bundles/small/1/model.onnx")]


def main(root: Path, kills: int) -> None:
    """Print the digests of every distillation, the undisturbed one first, and the kills."""
    require("timm")  # imported once, for all children
    # Drawn images and plots are most of a small build, and have tests of their own.
    (root / "drawn").mkdir()
    patch = pytest.MonkeyPatch()
    patch.setattr(synthetic_ood, "generate", DrawnImages(root / "drawn").generate)
    patch.setattr(pipeline, "plots", lambda data: dict.fromkeys(data.plots, b"<svg/>"))
    folders(root / "images", train=30)
    rng = random.Random(0)  # noqa: S311  # moments, not secrets
    ended(start(root, ["train", "--model", "timm:test_resnet", "--name", "large"], root / "large"))
    teacher = ["--teacher", str(root / "large/bundles/large/1")]
    words = ["distil", "--model", "timm:test_efficientnet", "--name", "small", *teacher]
    begun = time.monotonic()
    ended(start(root, words, root / "whole"))
    whole_s = time.monotonic() - begun
    halves: list[str] = []
    all_of, done = [root / "whole"], 0
    while done < kills:
        folder = root / f"killed-{len(all_of)}"
        while done < kills and killed(start(root, words, folder), rng.uniform(0.1, 0.9) * whole_s):
            done += 1
            halves += half(folder)
        if not (folder / "bundles/small/1").exists():
            ended(start(root, words, folder))
        all_of.append(folder)
    found = [result(folder) for folder in all_of]
    sys.stdout.write(json.dumps({"kills": done, "half": halves, "digests": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
