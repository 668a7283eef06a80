"""Kill a whole build at random times; run as a script, it prints what each build left.

The kernel's alarm ends a forked child at once, wherever it is: no handler, no clean-up.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.unit.models.colour_folders import folders, imported
from tidegate.models.build_request import BuildOptions
from tidegate.models.fitting.conformal import GateTarget
from tidegate.models.fitting.fit import FitOptions
from tidegate.models.pipeline import make
from tidegate.service.bundle.store import open_bundle
from tidegate.service.errors import BundleRefused

TIMES = 50
GIVEN = imported()
CHOICES = BuildOptions(
    "colours", "1", "a test", FitOptions(target=GateTarget(0.05, 0.1)), replace=True
)


def main(root: Path) -> None:
    data = folders(root / "images")
    bundles_dir = root / "bundles"
    rng = random.Random(0)  # noqa: S311 - when it dies is no secret
    sys.stderr = (root / "progress").open("w")

    def build(delay_s: float) -> bool:
        """Build in a child that dies after `delay_s`; return whether it finished."""
        child = os.fork()
        if child == 0:
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            make(GIVEN, data, CHOICES, bundles_dir)
            os._exit(0)
        return os.WIFEXITED(os.waitpid(child, 0)[1])

    started = time.monotonic()
    assert build(600)
    took_s = time.monotonic() - started
    expected = open_bundle(bundles_dir / "colours/1").digest
    found = []
    for _ in range(TIMES):
        lived = build(rng.uniform(0.02, 1.1) * took_s)
        found.append([lived, _state(bundles_dir / "colours/1", expected)])
    sys.stdout.write(json.dumps(found))


def _state(path: Path, expected: str) -> str:
    if not path.exists():
        return "none"
    try:
        return "good" if open_bundle(path).digest == expected else "wrong"
    except BundleRefused as error:
        return f"refused: {error}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
