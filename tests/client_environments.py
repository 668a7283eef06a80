"""Unmodified clients of other projects, each in an environment of its own, kept in build/clients.

Their packages are large and exclude one another, so they are not in the tests' environment.
"""

from __future__ import annotations

import json
import os
import re
import sys
import venv
from pathlib import Path
from typing import Any

from tests.processes import output
from tests.server import PATIENCE_S, ROOT

SCRIPTS = ROOT / "tests" / "api" / "clients"
TRITON_HTTP = "tritonclient[http]==2.73.*"
_INSTALL_S = 900


def run_client(script: str, requirement: str, *arguments: str | Path) -> Any:
    """Run a script of `tests/api/clients` with packages, and return the JSON that it prints.

    `requirement` is one package, or several with spaces between them.
    """
    python = environment(requirement) / "bin" / "python"
    variables = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    printed = output([python, SCRIPTS / f"{script}.py", *arguments], ROOT, variables, PATIENCE_S)
    return json.loads(printed.splitlines()[-1])


def environment(requirement: str) -> Path:
    """Return the environment with these packages, installed before or now."""
    name = re.sub("[^a-z0-9]+", "-", requirement.lower()).strip("-")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = ROOT / "build" / "clients" / f"{name}-{python}"
    done = folder / ".installed"
    if not done.exists():
        venv.create(folder, clear=True, with_pip=True)
        install: list[str | Path] = [
            folder / "bin" / "pip",
            "install",
            "--quiet",
            *requirement.split(),
        ]
        output(install, ROOT, os.environ, _INSTALL_S)
        done.touch()
    return folder
