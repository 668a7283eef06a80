"""What `make unit` runs: the default tests of tests/unit that are quick."""

from __future__ import annotations

import os
import re
import shlex
import sys

from tests.processes import output
from tests.server import ROOT

FILES = ["tests/unit/engines/openvino", "tests/unit/offline"]


def test_nothing_is_run_that_the_default_leaves_out_or_that_is_not_quick() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (options,) = re.findall(r"^unit:.*\n.* --quiet (.*) tests/unit$", makefile, re.MULTILINE)
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    (default,) = re.findall(r'"-m", "(.*)"\]', pyproject)

    expected = collected("-m", f"({default}) and not process and not lengthy")
    assert collected(*shlex.split(options)) == expected
    assert len(expected) > 9


def collected(*options: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--quiet", "--collect-only", *options, *FILES]
    return {
        line for line in output(command, ROOT, {**os.environ}, 300).splitlines() if "::" in line
    }
