"""Kill a bundle writer at each step it takes; run as a script, it prints what it found as JSON.

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

from models.write import current, locked, write_bundle
from service.bundle.store import Bundle
from service.errors import BundleRefused
from tests.unit.models import tiny

FILES = tiny.bundle_files()


def write(shelf: Path, recipe: str) -> None:
    with locked(shelf, lambda: None):
        write_bundle(shelf, tiny.bundle_manifest(FILES, recipe), FILES)


def survives(shelf: Path, step: int) -> bool:
    """Write in a child that dies before its `step`th step; tell whether it lived to the end."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if arguments and str(shelf) in str(arguments[0]):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        write(shelf, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFEXITED(status)


def state(shelf: Path) -> str:
    """Return "old", "new", "none", or what is wrong with the folder that is there."""
    if not (shelf / "1").exists():
        return "none"
    found = [current(shelf / "1", tiny.provenance(recipe)) for recipe in ("old", "new")]
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
            shelf = root / f"{before}-{step}"
            if before == "old":
                write(shelf, "old")
            lived = survives(shelf, step)
            after_death = state(shelf)
            write(shelf, "new")
            leftovers = sorted(item.name for item in shelf.iterdir())
            found.append([before, step, after_death, state(shelf), leftovers])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except BundleRefused as error:
        sys.exit(f"refused: {error}")
