"""A result has one job at a time, and a job that was killed holds nothing up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import DEMO_BUNDLE, PHOTOS
from tidegate.service.cli import main
from tidegate.service.errors import JobRefused
from tidegate.service.offline.lock import only_job

HOLD = """
import sys
from pathlib import Path
from tidegate.service.offline.lock import only_job
with only_job(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_job_with_the_same_result_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.jsonl"
    words = ["classify", str(PHOTOS), "--bundle", str(DEMO_BUNDLE), "--out", str(out), "--resume"]

    with only_job(out), only_job(tmp_path / "other.jsonl"):
        assert main(words) == 1

    said = capsys.readouterr().err
    assert f"writes {out}: wait until it ends, or give another --out" in said
    assert "Another job (process " in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(JobRefused, match=f"process {other.pid} on"), only_job(out):
            pass
        other.kill()
        other.wait()

        with only_job(out):
            assert (tmp_path / ".r.jsonl.lock").exists()

    assert list(tmp_path.iterdir()) == []


def test_a_result_in_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobRefused, match="does not exist"), only_job(tmp_path / "no" / "r.jsonl"):
        pass
