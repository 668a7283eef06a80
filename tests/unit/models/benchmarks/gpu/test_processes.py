"""The processes of the GPU report: the GPU tests, a service and its load test; some are fakes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.models.benchmarks.gpu import http, suite

pytestmark = pytest.mark.process

TESTED = """#!/bin/sh
for word; do case "$word" in --junitxml=*) results=${word#*=};; esac; done
case="<skipped message='$GPU_TEST_BATCHES batches'/>"
echo "<testsuite><testcase classname='a' name='one'>$case</testcase></testsuite>" > "$results"
exit 1
"""
MISUSED = "#!/bin/sh\necho printed by the fake\nexit 4\n"
STUCK = "#!/bin/sh\ntrap '' TERM\necho as far as here\nexec tail -f /dev/null\n"
ONE_SLOT = {"TIDEGATE_SLOTS": "1", "TIDEGATE_THREADS_PER_SLOT": "1"}
Stand = Callable[[str], None]


@pytest.fixture
def instead_of_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Replace every started Python by a script."""

    def stand_in(text: str) -> None:
        script = tmp_path / "fake_python"
        script.write_text(text)
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return stand_in


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return put(tmp_path / "tiny" / "1", sound_files())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30)).save(folder / "black.jpg")
    return folder


def test_the_tests_outcome_is_read_with_what_was_skipped(tmp_path: Path) -> None:
    results = tmp_path / "results.xml"
    results.write_text(
        '<testsuites><testsuite><testcase classname="a" name="one"/>'
        '<testcase classname="a" name="two"><skipped message="no TensorRT"/></testcase>'
        '<testcase classname="a" name="three"><failure message="wrong"/></testcase>'
        "</testsuite></testsuites>"
    )

    assert suite.counts(results) == {
        "passed": 1,
        "skipped": 1,
        "failure": 1,
        "not_passed": {"a::two": "no TensorRT", "a::three": "wrong"},
    }


def test_the_tests_get_the_number_of_batches(instead_of_python: Stand) -> None:
    instead_of_python(TESTED)

    counts = suite.run_tests(7)

    assert counts == {"returncode": 1, "skipped": 1, "not_passed": {"a::one": "7 batches"}}


def test_tests_without_results_raise_with_their_output(instead_of_python: Stand) -> None:
    instead_of_python(MISUSED)

    with pytest.raises(RuntimeError, match="pytest ended with 4: printed by the fake"):
        suite.run_tests(7)


def test_tests_that_do_not_end_raise_with_their_output(instead_of_python: Stand) -> None:
    instead_of_python(STUCK)

    with pytest.raises(RuntimeError, match="the tests took longer than 2 s: as far as here"):
        suite.run_tests(7, timeout_s=2)


def test_the_service_is_loaded_over_http(bundle: Path, photos: Path) -> None:
    figures = dict(http.measure(bundle, "tiny", "onnx-cpu", photos, ONE_SLOT, 0.4))

    assert list(figures) == ["engine", "closed_loop", "at_80_percent"]
    assert figures["engine"]["name"] == "onnx-cpu"  # type: ignore[index]
    assert figures["closed_loop"]["throughput"] > 0  # type: ignore[index]


def test_a_service_that_does_not_start_raises_with_the_reason(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)the service ended with 1: .*cannot start"):
        dict(http.measure(tmp_path / "none", "tiny", "onnx-cpu", photos, {}, 0.4))


def test_results_before_a_failed_load_test_are_kept(bundle: Path, tmp_path: Path) -> None:
    figures = http.measure(bundle, "tiny", "onnx-cpu", tmp_path / "none", ONE_SLOT, 0.4)

    assert next(figures)[0] == "engine"
    with pytest.raises(RuntimeError, match="the load test ended with"):
        next(figures)


def test_a_service_that_does_not_end_is_killed(
    tmp_path: Path, photos: Path, instead_of_python: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_python(STUCK)
    monkeypatch.setattr(http, "_START_S", 1.0)
    monkeypatch.setattr(http, "_STOP_S", 0.1)

    with pytest.raises(RuntimeError, match="the service was not ready in 1 s"):
        next(http.measure(tmp_path, "tiny", "onnx-cpu", photos, {}, 0.4))
