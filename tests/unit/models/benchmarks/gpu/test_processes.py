"""The processes of the GPU report: the GPU tests, a service and its load test; some are fakes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def test_only_the_gpu_tests_are_collected(instead_of_python: Stand, tmp_path: Path) -> None:
    instead_of_python(TESTED.replace("exit 1", f'echo "$*" > {tmp_path}/asked'))

    suite.run_tests(7)

    assert "-m pytest tests/gpu -m gpu" in (tmp_path / "asked").read_text()


def test_the_gpu_tests_need_none_of_the_packages_of_others(tmp_path: Path) -> None:
    """A GPU host without a network has few packages; these are examples of what it lacks."""
    lacking = tmp_path / "lacking"
    for name in ("jsonschema", "compose_spec", "kubernetes_validate", "playwright", "sphinx"):
        (lacking / f"{name}.py").parent.mkdir(exist_ok=True)
        (lacking / f"{name}.py").write_text("raise ImportError('not on a GPU host')")
    root = Path(__file__).parents[5]
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "--collect-only", "-q"]

    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(lacking)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert "test_on_a_gpu.py::" in done.stdout


def test_tests_without_results_raise_with_their_output(instead_of_python: Stand) -> None:
    instead_of_python(MISUSED)

    with pytest.raises(RuntimeError, match="pytest ended with 4: printed by the fake"):
        suite.run_tests(7)


def test_tests_that_do_not_end_raise_with_their_output(instead_of_python: Stand) -> None:
    instead_of_python(STUCK)

    with pytest.raises(RuntimeError, match="the tests took longer than 2 s: as far as here"):
        suite.run_tests(7, timeout_s=2)


def test_the_service_is_loaded_over_http(
    bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})  # for one client process
    figures = dict(http.measure(bundle, "tiny", "onnx-cpu", photos, ONE_SLOT, 0.4))

    assert list(figures) == ["engine", "closed_loop", "at_80_percent"]
    assert figures["engine"]["name"] == "onnx-cpu"  # type: ignore[index]
    assert figures["closed_loop"]["throughput"] > 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("rates", "most", "tried", "processes", "limited"),
    [
        ([100, 190, 195], 16, [1, 2, 4], 4, False),
        ([100, 190, 150], 16, [1, 2, 4], 2, False),
        ([100, 200, 400], 4, [1, 2, 4], 4, True),
        ([100], 1, [1], 1, True),
    ],
)
def test_clients_are_added_until_they_are_not_the_limit(
    rates: list[float], most: int, tried: list[int], processes: int, limited: bool
) -> None:
    measured: list[int] = []

    def load(processes: int) -> dict[str, Any]:
        measured.append(processes)
        return {"processes": processes, "throughput": rates[len(measured) - 1]}

    best = http.until_no_gain(load, most)

    assert measured == tried
    assert (best["processes"], best["client_is_the_limit"]) == (processes, limited)


def test_the_figures_of_several_clients_are_added_up() -> None:
    def report(rate: float, p99: float) -> dict[str, Any]:
        return {
            **dict.fromkeys(("requests", "answered", "throughput", "client_cores"), rate),
            "latency_ms": {"p99": p99},
            "generator_lag_ms": {},
            "statuses": {"200": 3},
        }

    figures = http.together([report(10.0, 5.0), report(20.0, 9.0)])

    assert figures["processes"] == 2
    assert figures["throughput"] == 30.0
    assert figures["latency_ms"] == {"p99": 9.0}
    assert figures["statuses"] == {"200": 6}


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
