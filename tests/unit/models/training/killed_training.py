"""Kill trainings at random moments until each is finished; prints the results as JSON.

Run as a script with "training" or "distillation", a folder and a number of kills. A child process
trains; its parent kills it with SIGKILL after a random part of the time that a whole training
takes, and starts it again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.unit.models.training.small import TRANSFERRED, a_teacher, data, distillation, request
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.train import Request, train
from tidegate.service.files import sha256_of

_EPOCHS, _SAVE_EVERY_S = 6, 0.01


def start(asked: Request) -> int:
    """Return the process that trains."""
    child = os.fork()
    if child == 0:
        train(asked)
        os._exit(0)
    return child


def of_a_kind(kind: str, root: Path) -> Callable[[Path], Request]:
    """Return a function that asks for a training or a distillation in a folder."""
    divided = data(root / "images")
    if kind == "training":
        return lambda folder: request(
            divided, folder, stages__full=_EPOCHS, save_every_s=_SAVE_EVERY_S
        )
    teacher = a_teacher(divided, root / "teacher")
    changes = {**TRANSFERRED, "stages.full": _EPOCHS, "save_every_s": _SAVE_EVERY_S}
    return lambda folder: distillation(divided, teacher, folder, changes)


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


def main(kind: str, root: Path, kills: int) -> None:
    """Print the digest of every finished training, the undisturbed one first, and the kills."""
    require("timm")  # imported once, for all children
    asked, rng = of_a_kind(kind, root), random.Random(0)  # noqa: S311  # moments, not secrets
    begun = time.monotonic()
    os.waitpid(start(asked(root / "whole")), 0)
    whole_s = time.monotonic() - begun
    folders, done, half = [root / "whole"], 0, 0
    while done < kills:
        folder = root / f"killed-{len(folders)}"
        while done < kills and killed(start(asked(folder)), rng.uniform(0.2, 0.9) * whole_s):
            done += 1
            model = folder / "model"
            half += model.exists() and not (model / "config.json").is_file()
        os.waitpid(start(asked(folder)), 0)
        folders.append(folder)
    found = [sha256_of(folder / "model" / "model.safetensors") for folder in folders]
    sys.stdout.write(json.dumps({"kills": done, "half": half, "digests": found}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
