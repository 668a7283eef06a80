"""Kill a pull before each of its changes to the disk; run as a script, it prints what is left.

After each, another pull must complete the bundle.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tidegate.service.bundle.store import open_bundle
from tidegate.service.distribution.transfer import pull
from tidegate.service.distribution.uri import parse

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"}


def main(source: Path, out: Path) -> None:
    expected = open_bundle(source).digest
    states = []
    for at in itertools.count(1):
        ended = _pull_in_child(source, out, at)
        states.append(_state(out / "tiny" / "1", expected))
        pull(parse(f"{source}"), out, None, lambda *values: None)
        assert open_bundle(out / "tiny" / "1").digest == expected
        shutil.rmtree(out)
        if ended:
            break
    sys.stdout.write(json.dumps(states))


def _pull_in_child(source: Path, out: Path, at: int) -> bool:
    """Pull in a child that dies before change number `at`; return whether it finished."""
    child = os.fork()
    if child == 0:
        changes = itertools.count(1)

        def die(event: str, given: tuple[Any, ...]) -> None:
            writes = event == "open" and isinstance(given[2], int) and given[2] & os.O_ACCMODE
            if (event in CHANGES or writes) and next(changes) == at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        pull(parse(f"{source}"), out, None, lambda *values: None)
        os._exit(0)
    return os.WIFEXITED(os.waitpid(child, 0)[1])


def _state(path: Path, expected: str) -> str:
    if not path.exists():
        return "none"
    return "complete" if open_bundle(path).digest == expected else "wrong"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
