"""Scenarios have names and expectations, and judge what they saw."""

import asyncio
import io
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from load_tests.chaos.catalogue import SCENARIOS
from load_tests.chaos.host import damaged_states
from load_tests.chaos.hostile_share import Phase, missed
from load_tests.chaos.setting import Traffic
from load_tests.commands import chaos
from load_tests.fuzz.memory import Memory, until_idle
from load_tests.fuzz.worst import WORST, worst


def _phase(name: str, latency_s: float, resident_mb: float, **statuses: int) -> Phase:
    traffic = Traffic()
    traffic.statuses = Counter({key.removeprefix("s"): n for key, n in statuses.items()})
    traffic.latencies_s = [latency_s] * 100
    return Phase(name, traffic, resident_mb)


def test_an_unknown_scenario_is_an_error_with_the_names() -> None:
    options = chaos.parser().parse_args(["--only", "nothing"])

    with pytest.raises(ValueError, match="no scenario nothing; there are paused"):
        chaos.run(options, "")


def test_every_scenario_says_what_it_expects() -> None:
    assert all(expected for _, expected in SCENARIOS.values())


@pytest.mark.parametrize("name", WORST)
def test_the_worst_images_are_small_files(name: str) -> None:
    assert 20 < len(worst(name, side=200)) < 200_000


@pytest.mark.parametrize("content", [c for n, c in damaged_states() if n != "text"])
def test_a_damaged_state_is_not_read_by_numpy(content: bytes) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it raises is the point
        str(np.load(io.BytesIO(content), allow_pickle=False)["format"])

    assert not isinstance(caught.value, KeyError | AssertionError)


def test_promises_that_were_kept_and_missed() -> None:
    quiet = _phase("quiet", 0.03, 300, s200=100)
    calm = _phase("hostile", 0.05, 310, s200=99, s503=1)
    slow = _phase("hostile", 0.09, 310, s200=99, s500=1)
    after, fat = _phase("after", 0.03, 310, s200=100), _phase("after", 0.03, 900, s200=100)

    assert missed([quiet, calm, after]) == []
    assert missed([quiet, calm]) == ["the process ended"]
    assert missed([quiet, slow, fat]) == [
        "1 errors",
        "p99 3.0 × the quiet one",
        "memory 3.00 × the one before",
    ]


def test_a_launch_condition_bounds_descriptors() -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    launch = [sys.executable, "-m", "load_tests.chaos.launch", "nofile=77", "--"]

    done = subprocess.run([*launch, sys.executable, "-c", code], capture_output=True, check=True)

    assert done.stdout == b"77\n"


def test_memory_of_a_process_is_read_and_none_of_one_that_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        asyncio.run(until_idle(process.pid, 30))
        memory = Memory(process.pid)
        assert 0 < memory.resident_mb() <= memory.peak_mb()
        process.communicate(b"\n")

    assert memory.resident_mb() == 0
