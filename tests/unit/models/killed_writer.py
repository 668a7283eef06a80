"""Kill a bundle writer at each of its steps; run as a script, it prints the results as JSON.

A step is an audit event (open, mkdir, rename, remove …) that touches the bundle's folder. The
child kills itself before the event happens, so every state between two steps is seen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.unit.models import tiny
from tidegate.models.sealing.write import current, locked, write_bundle
from tidegate.service.bundle.store import Bundle
from tidegate.service.errors import BundleRefused

FILES = tiny.bundle_files()


def write(model_dir: Path, recipe: str) -> None:
    with locked(model_dir, lambda: None):
        write_bundle(model_dir, tiny.bundle_manifest(FILES, recipe), FILES)


def survives(model_dir: Path, step: int) -> bool:
    """Write in a child that dies before its `step`th step; return whether it finished."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if arguments and str(model_dir) in str(arguments[0]):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        write(model_dir, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def state(model_dir: Path) -> str:
    """Return "old", "new", "none", or the error of the existing folder."""
    if not (model_dir / "1").exists():
        return "none"
    found = [current(model_dir / "1", tiny.provenance(recipe)) for recipe in ("old", "new")]
    if isinstance(found[0], Bundle):
        return "old"
    return found[1] if isinstance(found[1], str) else "new"


def main(root: Path) -> None:
    found = []
    for before in ("none", "old"):
        step = 0
        lived = False
        while not lived:
            step += 1
            model_dir = root / f"{before}-{step}"
            if before == "old":
                write(model_dir, "old")
            lived = survives(model_dir, step)
            after_death = state(model_dir)
            write(model_dir, "new")
            leftovers = sorted(item.name for item in model_dir.iterdir())
            found.append([before, step, after_death, state(model_dir), leftovers])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BundleRefused as error:
        sys.exit(f"refused: {error}")
