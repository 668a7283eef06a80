"""Kill trainings at random moments until each is finished; prints the results as JSON.

Run as a script with a folder and a number of kills. A child process trains; its parent kills it
with SIGKILL after a random part of the time that a whole training takes, and starts it again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.unit.models.training.small import data, request
from tidegate.models.data.training_data import TrainingData
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.train import train
from tidegate.service.files import sha256_of

_EPOCHS = 6


def start(divided: TrainingData, folder: Path) -> int:
    """Return the process that trains in `folder`."""
    child = os.fork()
    if child == 0:
        train(request(divided, folder, stages__full=_EPOCHS, save_every_s=0.01))
        os._exit(0)
    return child


def killed(child: int, after_s: float) -> bool:
    """Kill a process after a time; return whether it was still running."""
    end = time.monotonic() + after_s
    while time.monotonic() < end:
        done, _ = os.waitpid(child, os.WNOHANG)
        if done:
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main(root: Path, kills: int) -> None:
    """Print the digest of every finished training, the undisturbed one first, and the kills."""
    require("timm")  # imported once, for all children
    divided, rng = data(root / "images"), random.Random(0)  # noqa: S311  # moments, not secrets
    begun = time.monotonic()
    os.waitpid(start(divided, root / "whole"), 0)
    whole_s = time.monotonic() - begun
    folders, done, half = [root / "whole"], 0, 0
    while done < kills:
        folder = root / f"killed-{len(folders)}"
        while done < kills and killed(start(divided, folder), rng.uniform(0.2, 0.9) * whole_s):
            done += 1
            model = folder / "model"
            half += model.exists() and not (model / "config.json").is_file()
        os.waitpid(start(divided, folder), 0)
        folders.append(folder)
    found = [sha256_of(folder / "model" / "model.safetensors") for folder in folders]
    sys.stdout.write(json.dumps({"kills": done, "half": half, "digests": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
