"""The real CUDA provider of ONNX Runtime on stand-ins for NVIDIA's libraries, without a GPU.

The stand-ins compute nothing: only placement, memory, calls and error texts mean anything.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu_packages.standins.build import build, missing
from tests.server import DEMO_BUNDLE

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.gpu_packages,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]
DEMO = str(DEMO_BUNDLE / "model.onnx")
BUCKETS = (1, 2, 4, 8, 16, 32, 64)
MB = 10**6
# Of cudaError_t: one of each kind that ends a process.
LOST = (46, 101, 201, 226, 304, 700, 717, 719, 721, 802, 805, 806, 807, 810, 999)
Observe = Callable[..., Any]


@pytest.fixture(scope="module")
def observe(tmp_path_factory: pytest.TempPathFactory) -> Observe:
    """Return a function that runs a scenario in a process with the stand-ins."""
    folder = build(tmp_path_factory.mktemp("standins"))

    def observe_it(scenario: str, *arguments: object) -> Any:
        command = [sys.executable, "-m", "tests.gpu_packages.standins", str(folder), scenario]
        done = subprocess.run(
            [*command, *map(json.dumps, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return observe_it


def test_every_node_of_the_demo_is_on_cuda(observe: Observe) -> None:
    placed = observe("nodes", DEMO)

    assert set(placed) == {"CUDAExecutionProvider"}
    assert placed["CUDAExecutionProvider"] > 100


def test_all_sessions_share_one_arena(observe: Observe) -> None:
    """It was 6.4 GB, by the same count, when each session had an arena."""
    used = observe("memory", DEMO, BUCKETS)

    assert used["64"] < 4500 * MB
    assert used["32"] < 2300 * MB


def test_the_memory_of_sizes_that_are_given_up_is_freed(observe: Observe) -> None:
    *_, largest, kept = observe("given_up", DEMO)

    assert kept < largest / 2


def test_a_batch_is_copied_once_each_way(observe: Observe) -> None:
    calls = observe("run", DEMO, 8)

    assert (calls["copies_in"], calls["copies_out"]) == (1, 1)
    assert calls["bytes_in"] == 8 * 224 * 224 * 3
    assert calls["launches"] > 10
    assert calls["allocations"] == 0
    # Ours for the copy, before the batch's turn; then the runtime's two.
    assert calls["stream_syncs"] == 3
    assert calls["event_syncs"] == 1


def test_graphs_captured_in_warm_up_serve_other_threads(observe: Observe) -> None:
    calls = observe("graphs", DEMO, (1, 8))

    assert calls["can_capture"]
    assert calls["captured"]["captures_ended"] == 2 * calls["slots"]
    for replayed in calls["replayed"]:
        assert replayed["graph_launches"] == 1
        assert replayed["launches"] == replayed["captures_begun"] == replayed["allocations"] == 0
        assert replayed["stream_syncs"] == 2  # ours for the copy, and the runtime's


def test_graphs_that_are_dropped_free_their_memory(observe: Observe) -> None:
    calls = observe("graphs", DEMO, (1, 8))

    assert calls["after"]["live_bytes"] < calls["live"] - 100 * MB
    assert calls["after"]["graphs_destroyed"] == 2 * calls["slots"]


def test_graphs_of_one_session_have_the_same_memory(observe: Observe) -> None:
    """So they must not run at once, and nothing else may use that memory: see `graphs.py`."""
    first, second = observe("graphs_of_one_session", DEMO)

    assert first["captures_ended"] == second["captures_ended"] == 1
    assert first["allocations"] > 0
    assert second["live_bytes"] - first["live_bytes"] < 1 * MB


def test_slots_compute_on_streams_of_their_own(observe: Observe) -> None:
    assert observe("streams", DEMO) >= 3  # of four slots, three compute at once


@pytest.mark.parametrize("engine", ["onnx-cuda", "auto"])
def test_a_batch_size_that_does_not_fit_ends_the_warm_up_and_the_others_serve(
    engine: str, observe: Observe
) -> None:
    warm = observe("warm", DEMO, engine, 300)

    assert warm.get("engine") == "onnx-cuda", warm
    assert warm["batches"] == [1, 2, 4, 8]
    assert warm["largest"] == 8
    assert any("device memory low: using batches of at most 8" in line for line in warm["log"])


def test_a_device_that_is_too_small_for_one_image_is_refused(observe: Observe) -> None:
    assert "Lower TIDEGATE_MAX_BATCH_SIZE" in observe("warm", DEMO, "onnx-cuda", 30)["refused"]


def test_a_bounded_arena_stays_below_its_bound(observe: Observe) -> None:
    found = observe("bounded", DEMO, 500)

    assert found["fault"] == "MEMORY"
    assert found["live"] < 600 * MB  # the bound, and the slots' own buffers


def test_errors_after_which_a_process_is_lost_are_recognised(observe: Observe) -> None:
    found = observe("faults", DEMO, LOST)

    assert {code: kind for code, (kind, _) in found.items()} == {str(code): "LOST" for code in LOST}
    assert all("Status Message: CUDA error" in text for _, text in found.values()), found


def test_a_change_of_the_batch_size_plans_no_convolution_again(observe: Observe) -> None:
    assert max(observe("descriptors", DEMO, 4)) < 100
