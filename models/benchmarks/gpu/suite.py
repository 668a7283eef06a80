"""Run the GPU tests as a part of the report: counts, and the tests that did not pass."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

_ROOT = Path(__file__).parents[3]
_LIMIT_S = 3600
_TAIL_BYTES = 4000  # of pytest's output, for error messages


def run_tests(batches: int, timeout_s: float = _LIMIT_S) -> dict[str, object]:
    """Run `pytest tests/gpu -m gpu` in a separate process and return its counts and names.

    `batches` is the number that its memory test runs. Raises RuntimeError with the end of the
    output if there are no results.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-gpu-") as folder:
        results, log = Path(folder, "results.xml"), Path(folder, "log")
        # -v names each test in the output, as there are no results if pytest does not end.
        # The folder alone: the other tests import packages that a GPU host need not have.
        tests = ("tests/gpu", "-m", "gpu", "-v")
        command = [sys.executable, "-m", "pytest", *tests, f"--junitxml={results}"]
        environment = {**os.environ, "GPU_TEST_BATCHES": str(batches)}
        try:
            with log.open("wb") as out:
                done = subprocess.run(  # noqa: S603 - our own tests
                    command,
                    cwd=_ROOT,
                    env=environment,
                    stdout=out,
                    stderr=out,
                    timeout=timeout_s,
                    check=False,
                )
        except subprocess.TimeoutExpired:
            late = f"the tests took longer than {timeout_s:g} s"
            raise RuntimeError(f"{late}: {_last_of(log)}") from None
        if not results.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {_last_of(log)}")
        return {"returncode": done.returncode, **counts(results)}


def counts(results: Path) -> dict[str, object]:
    """Return the counts in a JUnit file, and the reasons of tests that did not pass."""
    outcome: dict[str, str] = {}
    reasons: dict[str, str] = {}
    # The file is our own pytest's.
    for case in ElementTree.parse(results).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname')}::{case.get('name')}"
        failure = next(
            (child for child in case if child.tag in ("failure", "error", "skipped")), None
        )
        outcome[name] = "passed" if failure is None else failure.tag
        if failure is not None:
            reasons[name] = (failure.get("message") or "")[:300]
    return {**Counter(outcome.values()), "not_passed": reasons}


def _last_of(log: Path) -> str:
    return log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
