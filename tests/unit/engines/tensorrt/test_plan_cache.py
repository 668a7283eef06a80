"""The plan cache: a plan's key covers all its inputs, writes are atomic, and one process builds."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tidegate.service.engines.tensorrt import plan_cache
from tidegate.service.engines.tensorrt.plan_cache import PlanCache, PlanKey
from tidegate.service.errors import EngineUnavailable

KEY = PlanKey(
    model_sha256="ab" * 32,
    tensorrt="TensorRT 10.16.1",
    cuda="13.0",
    gpu="NVIDIA H200",
    compute_capability="9.0",
    precision="fp16",
    buckets=(1, 2, 4),
    flags=("strongly-typed",),
)
PATIENCE_S = 150.0


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


def test_a_plan_is_built_once_and_read_from_the_cache(cache: PlanCache) -> None:
    built = []

    def build() -> bytes:
        built.append(1)
        return b"plan"

    assert cache.ensure(KEY, build) == b"plan"
    assert PlanCache(cache.folder).ensure(KEY, build) == b"plan"
    assert built == [1]


@pytest.mark.parametrize("field", [field.name for field in fields(PlanKey)])
def test_another_value_of_any_field_is_another_plan(cache: PlanCache, field: str) -> None:
    cache.put(KEY, b"plan")
    value = getattr(KEY, field)
    changed: Any = (*value, "x") if isinstance(value, tuple) else value + "x"
    other = replace(KEY, **{field: changed})

    assert cache.get(other) is None
    assert other.digest != KEY.digest


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_plan_is_built_again(
    cache: PlanCache, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(KEY, b"plan")
    (file,) = cache.folder.glob("*.plan")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"!" if damage is None else damage)

    with caplog.at_level(logging.WARNING):
        assert cache.ensure(KEY, lambda: b"new") == b"new"

    assert "is damaged" in caplog.text
    assert cache.get(KEY) == b"new"


def test_a_build_that_fails_leaves_nothing_behind(cache: PlanCache) -> None:
    def build() -> bytes:
        raise EngineUnavailable("no")

    with pytest.raises(EngineUnavailable):
        cache.ensure(KEY, build)

    assert cache.get(KEY) is None
    assert cache.ensure(KEY, lambda: b"plan") == b"plan"


def test_a_write_that_fails_leaves_the_old_plan(
    cache: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(KEY, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            cache.put(KEY, b"new")

    assert cache.get(KEY) == b"old"
    assert {path.suffix for path in cache.folder.iterdir()} == {".plan", ".json"}


def test_a_process_waits_for_another_that_builds(
    cache: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is owned by a real process, which reports it and exits on request."""
    lock = cache.folder / f"{KEY.digest}.lock"
    script = (
        "import fcntl, sys; lock = open(sys.argv[1], 'a'); fcntl.flock(lock, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    said, answers = threading.Event(), []
    with subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        waiting = threading.Thread(
            target=lambda: answers.append(
                cache.ensure(KEY, lambda: b"mine", wait=lambda line: said.set())
            )
        )
        waiting.start()
        assert said.wait(PATIENCE_S)
        cache.put(KEY, b"theirs")
        holder.stdin.close()
        waiting.join(PATIENCE_S)

    assert answers == [b"theirs"]


def test_a_dead_process_s_lock_does_not_block_others(cache: PlanCache) -> None:
    (cache.folder / f"{KEY.digest}.lock").touch()

    assert cache.ensure(KEY, lambda: b"plan") == b"plan"


def test_waiting_for_another_build_has_a_limit(
    cache: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_cache, "_PATIENCE_S", 0.01)
    with (cache.folder / f"{KEY.digest}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EngineUnavailable, match="Another process has been building"):
            cache.ensure(KEY, lambda: b"mine")


def test_the_folder_is_private(cache: PlanCache) -> None:
    assert cache.folder.stat().st_mode & 0o777 == 0o700


def test_a_runtime_s_own_cache_is_separate_for_each_model(cache: PlanCache, tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    first.write_bytes(b"weights")
    second.write_bytes(b"other weights")

    folders = {cache.folder_of(model) for model in (first, second, first)}

    assert len(folders) == 2
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)


def test_a_folder_that_others_can_write_to_is_rejected(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    with pytest.raises(EngineUnavailable, match=r"Other users can write.*TIDEGATE_PLAN_CACHE"):
        PlanCache(tmp_path)


def test_a_folder_that_cannot_be_created_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EngineUnavailable, match="cannot be used"):
        PlanCache(tmp_path / "file" / "plans")


def test_plans_of_one_gpu_and_version_share_a_timing_cache(cache: PlanCache) -> None:
    assert cache.timing(KEY) == cache.timing(replace(KEY, model_sha256="cd" * 32))
    assert cache.timing(KEY) != cache.timing(replace(KEY, gpu="NVIDIA L4"))

    cache.keep_timing(KEY, b"measured")

    assert cache.timing(KEY).read_bytes() == b"measured"
