"""The catalogue of chaos scenarios, and how their outcomes are evaluated."""

import asyncio
import io
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from load_tests.chaos import host
from load_tests.chaos.catalogue import SCENARIOS
from load_tests.chaos.decoding import as_expected
from load_tests.chaos.host import damaged_states
from load_tests.chaos.hostile_share import Phase, missed
from load_tests.chaos.setting import Outcome, Traffic
from load_tests.chaos.signals import drained, fate
from load_tests.chaos.versions import refusals
from load_tests.commands import chaos
from load_tests.fuzz.memory import Memory, until_idle
from load_tests.fuzz.worst import WORST, worst

pytestmark = pytest.mark.process


def _phase(name: str, latency_s: float, resident_mb: float, **statuses: int) -> Phase:
    traffic = Traffic()
    traffic.statuses = Counter({key.removeprefix("s"): n for key, n in statuses.items()})
    traffic.latencies_s = [latency_s] * traffic.statuses["200"]
    return Phase(name, traffic, resident_mb)


def test_an_unknown_scenario_is_an_error_with_the_names() -> None:
    options = chaos.parser().parse_args(["--only", "nothing"])

    with pytest.raises(ValueError, match="unknown scenario nothing; known: paused"):
        chaos.run(options, "")


def test_every_scenario_has_an_expectation() -> None:
    assert all(expected for _, expected in SCENARIOS.values())


@pytest.mark.parametrize("name", WORST)
def test_the_worst_images_are_small_files(name: str) -> None:
    assert 20 < len(worst(name, side=200)) < 200_000


@pytest.mark.parametrize("content", [c for n, c in damaged_states() if n != "text"])
def test_a_damaged_state_is_not_read_by_numpy(content: bytes) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any exception is correct
        str(np.load(io.BytesIO(content), allow_pickle=False)["format"])

    assert not isinstance(caught.value, KeyError | AssertionError)


QUIET = _phase("quiet", 0.03, 300, s200=1000)
AFTER = _phase("after", 0.03, 310, s200=1000)


def test_limits_that_were_met_and_exceeded() -> None:
    calm = _phase("hostile", 0.05, 310, s200=995, s503=5)
    slow, fat = _phase("hostile", 0.09, 310, s200=1000), _phase("after", 0.03, 900, s200=1000)

    assert missed([QUIET, calm, AFTER]) == []
    assert missed([QUIET, calm]) == ["the process exited"]
    assert missed([QUIET, slow, fat]) == [
        "p99 90 ms, quiet 30 ms",
        "memory 3.00 × that before",
    ]


@pytest.mark.parametrize("status", ["s503", "s504", "s500", "None"])
def test_a_normal_client_without_a_200_counts_as_late_and_lost(status: str) -> None:
    half = _phase("hostile", 0.03, 310, **{"s200": 500, status: 500})
    few = _phase("hostile", 0.03, 310, **{"s200": 980, status: 20})

    assert missed([QUIET, half, AFTER]) == [
        f"hostile: {half.traffic}",
        "p99 inf ms, quiet 30 ms",
    ]
    assert missed([QUIET, few, AFTER]) == ["p99 inf ms, quiet 30 ms"]
    assert half.errors == 500


@pytest.mark.parametrize("name", ["quiet", "after"])
def test_without_hostile_images_every_normal_client_is_answered(name: str) -> None:
    done = [QUIET, _phase("hostile", 0.03, 310, s200=1000), AFTER]
    refused = _phase(name, 0.03, 310, s200=999, s503=1)

    found = missed([refused if phase.name == name else phase for phase in done])

    assert found == [f"{name}: {refused.traffic}"]


def test_without_requests_the_latency_is_infinite() -> None:
    assert Traffic().quantile_ms(0.99) == math.inf


def test_a_503_is_valid_only_while_the_server_drains() -> None:
    assert fate(200, signalled=False) == fate(200, signalled=True) == "answered"
    assert fate(503, signalled=True) == "refused"
    assert [fate(503, signalled=False), fate(500, signalled=True), fate(504, signalled=True)] == [
        "lost"
    ] * 3


def test_a_drain_passes_if_something_was_answered_and_nothing_lost() -> None:
    assert drained(Counter(answered=9, refused=1), 1).passed
    assert not drained(Counter(answered=9, lost=1), 1).passed
    assert not drained(Counter(answered=9, left=1), 1).passed
    assert not drained(Counter(refused=9), 1).passed


def test_a_partial_file_that_remains_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_WRITTEN_S", 0.0)
    (tmp_path / "review").mkdir()
    assert asyncio.run(host._partial_files(tmp_path)) == 0

    (tmp_path / "review" / "a.part").touch()

    assert asyncio.run(host._partial_files(tmp_path)) == 1


def test_an_attack_must_be_decoded_or_rejected_as_expected() -> None:
    decoded, refused = Counter({"200": 1, "503": 9}), Counter({"503": 9})
    rejected = Counter({"415": 9, "503": 1})

    assert as_expected(decoded, accepted=True)
    assert as_expected(rejected, accepted=False)
    assert not as_expected(refused, accepted=True)
    assert not as_expected(rejected, accepted=True)
    assert not as_expected(decoded, accepted=False)


def test_a_launch_condition_limits_descriptors() -> None:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    launch = [sys.executable, "-m", "load_tests.chaos.launch", "nofile=77", "--"]

    done = subprocess.run([*launch, sys.executable, "-c", code], capture_output=True, check=True)

    assert done.stdout == b"77\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_launch_condition_shows_a_file_as_meminfo(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemAvailable: 1 kB\n")
    condition = f"meminfo={tmp_path / 'meminfo'}"
    launch = [sys.executable, "-m", "load_tests.chaos.launch", condition, "--"]

    done = subprocess.run([*launch, "cat", "/proc/meminfo"], capture_output=True, check=True)

    assert done.stdout == b"MemAvailable: 1 kB\n"
    assert "MemTotal" in Path("/proc/meminfo").read_text()


def _traffic(**statuses: int) -> Traffic:
    traffic = Traffic()
    traffic.statuses = Counter({key.removeprefix("s"): n for key, n in statuses.items()})
    return traffic


REFUSED = {
    "tampered": "model.onnx has changed since it was sealed.",
    "too-large": "loading it needs about 172 MiB of memory, and 64 MiB are available.",
}


def test_versions_that_are_refused_for_their_reason_pass() -> None:
    assert refusals(REFUSED, _traffic(s200=50)) == Outcome(
        "2 of 2 refused, 100% of 50 good (200×50)", passed=True
    )


@pytest.mark.parametrize(
    ("reason", "said"), [("", "tampered: served"), ("no such file", "tampered: no such file")]
)
def test_a_version_that_is_served_or_refused_for_another_reason_fails(
    reason: str, said: str
) -> None:
    outcome = refusals({**REFUSED, "tampered": reason}, _traffic(s200=50))

    assert not outcome.passed
    assert outcome.observed.startswith("1 of 2 refused")
    assert outcome.observed.endswith(said)


@pytest.mark.parametrize("traffic", [_traffic(), _traffic(s200=49, s503=1)])
def test_a_normal_client_that_is_not_answered_fails(traffic: Traffic) -> None:
    assert not refusals(REFUSED, traffic).passed


def test_memory_is_read_for_a_running_process_and_is_0_after_its_end() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        asyncio.run(until_idle(process.pid, 30))
        memory = Memory(process.pid)
        assert 0 < memory.resident_mb() <= memory.peak_mb()
        process.communicate(b"\n")

    assert memory.resident_mb() == 0
