"""The GPU tests as part of a report: how many passed, failed and were skipped, and which."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

_ROOT = Path(__file__).parents[2]
_LIMIT_S = 3600


def run_tests(timeout_s: float = _LIMIT_S) -> dict[str, object]:
    """Run `pytest -m gpu` in a process of its own and return its counts and names."""
    with tempfile.TemporaryDirectory(prefix="tidegate-gpu-") as folder:
        results = Path(folder, "results.xml")
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--junitxml={results}"]
        try:
            done = subprocess.run(  # noqa: S603 - our own tests
                command, cwd=_ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            return {"not_run": f"the tests took longer than {timeout_s:g} s"}
        if not results.exists():
            return {"not_run": done.stdout[-2000:] + done.stderr[-2000:]}
        return {"returncode": done.returncode, **counts(results)}


def counts(results: Path) -> dict[str, object]:
    """Return what a JUnit file says."""
    outcome: dict[str, str] = {}
    reasons: dict[str, str] = {}
    # The file is our own pytest's.
    for case in ElementTree.parse(results).iter("testcase"):  # noqa: S314
        name = f"{case.get('classname')}::{case.get('name')}"
        told = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome[name] = "passed" if told is None else told.tag
        if told is not None:
            reasons[name] = (told.get("message") or "")[:300]
    return {**Counter(outcome.values()), "not_passed": reasons}
