"""Kill a promotion before each of its changes to the disk; run as a script, it prints what is left.

After each, another promotion must succeed and leave nothing behind.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tidegate.service.serving.changes import promote, require_served
from tidegate.service.serving.edit import update
from tidegate.service.serving.serving_file import Place, find

CHANGES = {"os.rename", "os.remove", "os.chmod"}
BEFORE = '[parts]\nstable = "3"\ncanary = { version = "4", share = 0.5 }\n'
AFTER = '[parts]\nstable = "4"\naliases = {previous = "3"}\n'


def main(models: Path) -> None:
    file, states = models / "serving.toml", []
    for at in itertools.count(1):
        file.write_text(BEFORE)
        ended = _promote_in_child(models, at)
        states.append({BEFORE: "old", AFTER: "new"}[file.read_text()])
        find(Place(models)).plan()
        file.write_text(BEFORE)
        _promote(models)
        assert file.read_text() == AFTER
        assert {item.name for item in models.iterdir()} == {
            "parts",
            "serving.toml",
            ".serving.toml.lock",
        }
        if ended:
            break
    sys.stdout.write(json.dumps(states))


def _promote(models: Path) -> None:
    update(Place(models), "parts", lambda plan, there: promote(require_served(plan), there))


def _promote_in_child(models: Path, at: int) -> bool:
    """Promote in a child that dies before change number `at`; return whether it finished."""
    child = os.fork()
    if child == 0:
        changes = itertools.count(1)

        def die(event: str, given: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(given[2], int) and given[2] & os.O_ACCMODE
            if (event in CHANGES or writes) and next(changes) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        _promote(models)
        os._exit(0)
    return os.WIFEXITED(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
