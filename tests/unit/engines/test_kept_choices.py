"""A warm-up choice is kept for the same graph and machine, and is checked before it is used."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.tiny_graph import sealed
from tidegate.service.engines import cpu_warm_up, kept_choices, warm_up
from tidegate.service.engines.base import Engine, EngineInfo
from tidegate.service.engines.config import EngineConfig, WarmEngine
from tidegate.service.engines.cpu_engines import ONNX, CpuEngine
from tidegate.service.engines.cpu_warm_up import open_on_cpu
from tidegate.service.engines.kept_choices import Choice, KeptChoices, Key, cpu_model
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import EngineUnavailable
from tidegate.service.types import Pixels

KEY = Key("a" * 64, "fp32", "onnxruntime 1", "0,0,0", 2, "a CPU")
CHOICE = Choice(slots=2, threads_per_slot=1, latency_s={1: 0.01, 2: 0.02})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(sealed())
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The models that were measured in full."""
    models: list[Path] = []
    measure = cpu_warm_up._measure

    def noted(sealed: cpu_warm_up._Sealed, *arguments: object) -> WarmEngine:
        models.append(sealed.model)
        return measure(sealed, *arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(cpu_warm_up, "_measure", noted)
    return models


def opened(model: Path, folder: Path | None) -> WarmEngine:
    config = EngineConfig(slots=1, max_batch_size=2, warm_up_cache=folder)
    warm = open_on_cpu([ONNX], model, config, [1, 2], "fp32")
    warm.engine.close()
    return warm


def test_a_kept_choice_is_read_back(tmp_path: Path) -> None:
    kept = KeptChoices(tmp_path / "cache")
    kept.put(KEY, CHOICE)

    assert kept.get(KEY) == CHOICE


@pytest.mark.parametrize(
    "other",
    [
        Key("b" * 64, "fp32", "onnxruntime 1", "0,0,0", 2, "a CPU"),
        Key("a" * 64, "int8", "onnxruntime 1", "0,0,0", 2, "a CPU"),
        Key("a" * 64, "fp32", "onnxruntime 2", "0,0,0", 2, "a CPU"),
        Key("a" * 64, "fp32", "onnxruntime 1", "1,0,0", 2, "a CPU"),
        Key("a" * 64, "fp32", "onnxruntime 1", "0,0,0", 4, "a CPU"),
        Key("a" * 64, "fp32", "onnxruntime 1", "0,0,0", 2, "another CPU"),
    ],
    ids=["model", "precision", "runtime", "settings", "cores", "cpu"],
)
def test_a_choice_is_not_used_for_another_key(tmp_path: Path, other: Key) -> None:
    kept = KeptChoices(tmp_path)
    kept.put(KEY, CHOICE)

    assert kept.get(other) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b'{"slots": 0}', b"\xff" * 9, b" " * (kept_choices._MAX_BYTES + 1)],
    ids=["empty", "cut", "null", "no slots", "no text", "too large"],
)
def test_a_damaged_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{KEY.digest}.json").write_bytes(content)

    assert KeptChoices(tmp_path).get(KEY) is None


def test_a_pipe_in_a_files_place_is_ignored(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{KEY.digest}.json")

    assert KeptChoices(tmp_path).get(KEY) is None


@pytest.mark.parametrize(
    ("now_s", "holds"), [(0.0082, True), (0.0078, False), (0.039, True), (0.041, False)]
)
def test_a_choice_from_a_busier_moment_does_not_hold(now_s: float, holds: bool) -> None:
    kept = Choice(slots=2, threads_per_slot=1, latency_s={1: 0.01})

    assert kept.agrees_with({1: now_s}) is holds


def test_a_choice_lasts_a_week(tmp_path: Path) -> None:
    kept = KeptChoices(tmp_path)
    kept.put(KEY, CHOICE)
    path = tmp_path / f"{KEY.digest}.json"
    old = path.stat().st_mtime - 8 * 86_400
    os.utime(path, (old, old))

    assert kept.get(KEY) is None


def test_a_folder_that_cannot_be_created_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    KeptChoices(tmp_path / "file" / "below").put(KEY, CHOICE)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch size of each round, on a machine of constant speed."""
    sizes: list[int] = []

    def turns(batches: Sequence[tuple[Engine, Sequence[Pixels]]]) -> list[list[tuple[float, ...]]]:
        sizes.extend(len(images) for _, images in batches)
        return [[tuple(0.01 * len(images) for _, images in batches)]] * batches[0][0].slots

    monkeypatch.setattr(warm_up, "time_in_turns", turns)
    return sizes


@pytest.mark.usefixtures("timed")
def test_the_second_start_uses_the_choice_of_the_first(
    model: Path, tmp_path: Path, measured: list[Path]
) -> None:
    first, second = (opened(model, tmp_path / "cache") for _ in range(2))

    assert measured == [model]
    assert second.engine.slots == first.engine.slots
    assert second.latency_s == first.latency_s


def test_a_kept_choice_is_checked_in_one_round_per_batch_size(
    model: Path, tmp_path: Path, timed: list[int]
) -> None:
    opened(model, tmp_path)
    timed.clear()

    opened(model, tmp_path)

    assert timed == [1, 2]


@pytest.mark.lengthy
def test_a_choice_that_the_machine_contradicts_is_measured_again(
    model: Path, tmp_path: Path, measured: list[Path]
) -> None:
    opened(model, tmp_path)
    (path,) = tmp_path.glob("*.json")
    kept = json.loads(path.read_bytes())
    kept["latency_s"] = {size: 1000 * s for size, s in kept["latency_s"].items()}
    path.write_text(json.dumps(kept))

    opened(model, tmp_path)

    assert measured == [model, model]


def test_if_everything_is_set_each_batch_size_runs_in_one_round_and_nothing_is_kept(
    model: Path, tmp_path: Path, timed: list[int], measured: list[Path]
) -> None:
    folder = tmp_path / "cache"
    config = EngineConfig(slots=2, threads_per_slot=1, max_batch_size=2, warm_up_cache=folder)

    warm = open_on_cpu([ONNX], model, config, [1, 2], "fp32")

    assert (warm.engine.slots, sorted(warm.latency_s)) == (2, [1, 2])
    assert (timed, measured) == ([1, 2], [])
    assert not folder.exists()


@pytest.mark.parametrize(("gain", "engine"), [(1.04, "onnx-cpu"), (1.06, "faster")])
def test_another_engine_must_be_clearly_faster_and_is_kept(
    gain: float,
    engine: str,
    model: Path,
    tmp_path: Path,
    measured: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def took_s(engine: Engine, images: Sequence[Pixels]) -> float:
        return 0.01 * len(images) / (gain if engine.info.name == "faster" else 1)

    def turns(batches: Sequence[tuple[Engine, Sequence[Pixels]]]) -> list[list[tuple[float, ...]]]:
        return [[tuple(took_s(*batch) for batch in batches)]] * batches[0][0].slots

    monkeypatch.setattr(warm_up, "time_in_turns", turns)
    engines = [CpuEngine("faster", FasterEngine, lambda: "faster 1"), ONNX]
    config = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=2, warm_up_cache=tmp_path)

    chosen = [
        open_on_cpu(engines, model, config, [1, 2], "fp32").engine.info.name for _ in range(2)
    ]

    assert chosen == [engine, engine]
    assert measured == [model]


@pytest.mark.lengthy
def test_another_engine_that_does_not_load_is_left_out(model: Path) -> None:
    def fail(*_: object, **__: object) -> Engine:
        raise EngineUnavailable("no such operator")

    engines = [CpuEngine("faster", fail, lambda: "faster 1"), ONNX]
    config = EngineConfig(slots=1, threads_per_slot=1, max_batch_size=2)

    assert open_on_cpu(engines, model, config, [1, 2], "fp32").engine.info.name == "onnx-cpu"


class FasterEngine(OnnxEngine):
    """A fake of another engine: ONNX Runtime under another name."""

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, name="faster")


@pytest.mark.lengthy
def test_without_a_folder_each_start_measures(model: Path, measured: list[Path]) -> None:
    for _ in range(2):
        opened(model, None)

    assert measured == [model, model]


def test_the_cpu_is_named_with_its_features(tmp_path: Path) -> None:
    names = []
    for flags in ("fpu sse", "fpu sse avx"):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\n")
        names.append(cpu_model(cpuinfo))

    assert names[0].startswith("A CPU ")
    assert names[0] != names[1]


def test_an_arm_cpu_is_named_by_its_parts_and_features(tmp_path: Path) -> None:
    names = set()
    for part, features in (("0xd08", "fp asimd"), ("0xd0b", "fp asimd"), ("0xd0b", "fp asimddp")):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(
            f"processor\t: 0\nFeatures\t: {features}\nCPU implementer\t: 0x41\n"
            f"CPU part\t: {part}\nCPU revision\t: 3\n\nModel\t: A board\n"
        )
        names.add(cpu_model(cpuinfo))

    assert len(names) == 3
    assert all(name.startswith("0x41 0xd0") for name in names)
