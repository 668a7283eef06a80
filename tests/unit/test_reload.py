"""Versions change while the service answers: reload, canary, shadow, promotion and rollback."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle.tiny_bundle import Files, golden_arrays, npz, sound_files
from tests.unit.stage import (
    CANARY,
    PATIENCE_S,
    Stage,
    folder_of_models,
    play,
    seal,
    serving,
    until,
)
from tidegate.service import following, loading, memory
from tidegate.service.building import Builder
from tidegate.service.bundle.store import GOLDEN, LABELS
from tidegate.service.drift import state
from tidegate.service.engines import cpu_engines
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.engines.open_like import open_like
from tidegate.service.errors import BundleRefused, NotFound, ServingInvalid
from tidegate.service.idle_turns import IdleTurns
from tidegate.service.lifecycle import Service
from tidegate.service.loading import Loader
from tidegate.service.pipeline import Upload
from tidegate.service.serving.serving_file import Place
from tidegate.service.wanted import ModelFolder, OneBundle, Wanted

pytestmark = pytest.mark.process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of_models(tmp_path)


def test_a_reload_serves_the_version_that_the_file_names(root: Path) -> None:
    async def scenario(on: Stage) -> None:
        assert (await on.classify())[0] == "1"

        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "loaded"}

        assert (await on.classify())[0] == "2"
        assert on.value("tidegate_reload_total", model="tiny", outcome="loaded") == 2.0
        digest = on.service.choose().served.bundle.short_digest
        alias = {"model": "tiny", "version": "2", "digest": digest, "alias": "stable"}
        assert on.value("tidegate_model_alias", **alias) == 1.0
        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "unchanged"}

    play(root, scenario)


def test_going_back_loads_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = Loader.load

    async def noted(self: Loader, path: Path, *more: Any) -> Any:
        loaded.append(path.name)
        return await load(self, path, *more)

    monkeypatch.setattr(Loader, "load", noted)

    async def scenario(on: Stage) -> None:
        await on.serve('[tiny]\nstable = "2"\n')
        await on.serve('[tiny]\nstable = "1"\n')
        assert (await on.classify())[0] == "1"
        await on.serve('[tiny]\nstable = "2"\n')

        assert loaded == ["2"]

    play(root, scenario)


def test_a_version_without_an_alias_has_no_series_and_is_unloaded_later(root: Path) -> None:
    async def scenario(on: Stage) -> None:
        before = on.service.catalog.model("").stable
        await on.classify()
        text = on.metrics.render().decode()
        assert f'digest="{before.bundle.short_digest}"' in text

        await on.serve('[tiny]\nstable = "2"\n')

        assert f'digest="{before.bundle.short_digest}"' not in on.metrics.render().decode()
        assert before.watching is None
        assert [str(served) for served in on.reloader.loaded] != []
        await on.reloader.tidy()
        assert before not in list(on.reloader.loaded)
        assert isinstance(before.lane.engine, OnnxEngine)
        assert before.lane.engine._sessions == []  # its memory is free

    play(root, scenario, rollback_s=0.0)


def broken(how: str) -> Files:
    """Return the files of a version that must be refused."""
    files = sound_files()
    if how == "other answers":
        arrays = golden_arrays(files)
        arrays["logits"] = arrays["logits"] + 1.0
        files[GOLDEN] = npz(**arrays)
    elif how == "another graph":
        files["model.onnx"] = b"not a graph"
    return files


@pytest.mark.parametrize("how", ["other answers", "another graph", "tampered"])
def test_a_refused_version_leaves_everything_as_it_was(root: Path, how: str) -> None:
    folder = seal(root, "3", broken(how))
    if how == "tampered":
        (folder / LABELS).write_bytes(b"dog\ncat\ncat\ntree frog\n")

    async def scenario(on: Stage) -> None:
        assert await on.serve('[tiny]\nstable = "3"\n') == {"tiny": "refused"}

        assert (await on.classify())[0] == "1"
        assert list(on.service.catalog.model("tiny").refused) == ["3"]
        assert on.value("tidegate_reload_total", model="tiny", outcome="refused") == 1.0
        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "loaded"}
        assert on.service.catalog.model("tiny").refused == {}

    play(root, scenario)


def test_a_version_that_does_not_fit_into_memory_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(on: Stage) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 20)

        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "refused"}

        (reason,) = on.service.catalog.model("tiny").refused.values()
        assert "1 MiB are available" in reason

    play(root, scenario)


def test_at_most_so_many_versions_are_loaded(root: Path) -> None:
    seal(root, "3")
    seal(root, "4")

    async def scenario(on: Stage) -> None:
        await on.serve('[tiny]\nstable = "2"\naliases = { old = "1" }\n')
        both = '[tiny]\nstable = "2"\naliases = { old = "1", older = "3" }\n'
        assert await on.serve(both) == {"tiny": "refused"}
        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "loaded"}
        assert await on.serve('[tiny]\nstable = "3"\n') == {"tiny": "loaded"}  # unloads 1
        assert {served.version for served in on.reloader.loaded} == {"2", "3"}

    play(root, scenario, max_loaded_versions=2)


def test_room_is_not_made_by_a_version_that_the_plan_needs(root: Path) -> None:
    for version in ("3", "4"):
        seal(root, version)

    async def scenario(on: Stage) -> None:
        for version in ("3", "2"):  # version 1 has been unused for longest
            await on.serve(f'[tiny]\nstable = "{version}"\n')
        file = '[tiny]\nstable = "1"\ncanary = { version = "4", share = 0.0 }\n'

        assert await on.serve(file) == {"tiny": "loaded"}

        assert (await on.classify())[0] == "1"
        assert (await on.classify(version="canary"))[0] == "4"

    play(root, scenario, max_loaded_versions=3)


def test_a_version_is_not_unloaded_while_a_request_for_it_is_received(root: Path) -> None:
    async def scenario(on: Stage) -> None:
        chosen = on.service.choose()
        with chosen.served.lane.receiving():
            await on.serve('[tiny]\nstable = "2"\n')
            await on.reloader.tidy()
            now = time.monotonic()
            image = (root / "tiny/1/golden/grey.png").read_bytes()
            result = await chosen.classify(Upload(image, now, now + PATIENCE_S, 1), "r1")

        assert result.predictions[0].label[:-1] in ("1", "")
        await on.reloader.tidy()
        assert chosen.served not in list(on.reloader.loaded)

    play(root, scenario, rollback_s=0.0)


def test_a_stable_version_that_is_refused_at_the_start_prevents_it(root: Path) -> None:
    (root / "tiny/1" / LABELS).write_bytes(b"1b\n1a\n1c\nd\n")  # as long as it was

    with pytest.raises(BundleRefused, match=r"labels\.txt"):
        play(root, lambda on: asyncio.sleep(0))


def test_a_canary_that_is_refused_at_the_start_is_left_out(root: Path) -> None:
    (root / "tiny/2" / LABELS).write_bytes(b"2b\n2a\n2c\nd\n")  # as long as it was
    serving(root, '[tiny]\nstable = "1"\ncanary = { version = "2", share = 1.0 }\n')

    async def scenario(on: Stage) -> None:
        assert (await on.classify())[0] == "1"
        assert list(on.service.catalog.model("tiny").refused) == ["2"]

    play(root, scenario)


def test_several_models_answer_under_their_names(root: Path) -> None:
    seal(root, "7", name="other")
    serving(root, 'default = "tiny"\n[tiny]\nstable = "1"\n[other]\nstable = "7"\n')

    async def scenario(on: Stage) -> None:
        assert (await on.classify())[0] == "1"
        assert (await on.classify(model="other"))[0] == "7"
        with pytest.raises(NotFound, match="No model with this name"):
            on.service.choose(model="third")
        with pytest.raises(NotFound, match="there is 1, stable"):
            on.service.choose(model="tiny", version="7")
        assert await on.serve('[other]\nstable = "7"\n') == {
            "other": "unchanged",
            "tiny": "unloaded",
        }
        assert (await on.classify())[0] == "7"

    play(root, scenario)


def test_a_canary_answers_its_share_and_a_key_always_gets_the_same_version(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        chosen = [on.service.choose(request_id=f"r{n}").served.version for n in range(2000)]
        assert chosen.count("2") == pytest.approx(600, abs=100)
        keyed = {
            on.service.choose(key="client", request_id=f"r{n}").served.version for n in range(50)
        }
        assert len(keyed) == 1
        for version in ("2", "canary"):
            assert (await on.classify(version=version))[0] == "2"

    play(root, scenario)


def test_the_judge_keeps_its_evidence_when_only_the_share_changes(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        before = on.service.catalog.model("tiny").rollout
        await on.serve(CANARY.replace("0.3", "0.9"))
        after = on.service.catalog.model("tiny").rollout

        assert after is before
        assert after is not None
        assert after.canary is not None
        assert after.canary.share == 0.9

    play(root, scenario)


def test_a_shadow_computes_the_same_images_and_answers_none(root: Path) -> None:
    serving(root, '[tiny]\nstable = "1"\nshadow = { version = "2", share = 1.0 }\n')

    async def scenario(on: Stage) -> None:
        rollout = on.service.catalog.model("tiny").rollout
        assert rollout is not None
        assert (await on.classify())[0] == "1"
        await until(lambda: rollout.shadowing is not None and rollout.shadowing.judge.images > 0)

        assert rollout.shadowing is not None
        report = rollout.shadowing.report()
        assert report["same_class"]["share"] == 1.0
        assert on.value("tidegate_shadow_images_total", model="tiny", outcome="compared") == 1.0

    play(root, scenario)


def test_the_file_is_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_POLL_S", 0.01)

    async def scenario(on: Stage) -> None:
        serving(on.root, '[tiny]\nstable = "2"\n')
        await until(lambda: on.service.choose().served.version == "2")
        serving(on.root, "[tiny]\nstabel = 2\n")
        await until(lambda: on.value("tidegate_reload_total", model="", outcome="refused") == 1.0)
        assert (await on.classify())[0] == "2"

    play(root, scenario)


def test_one_bundle_is_read_again_after_its_folder_has_changed(tmp_path: Path) -> None:
    folder = seal(tmp_path, "1")
    state = tmp_path / "drift"

    async def scenario(on: Stage) -> None:
        for item in sorted(folder.rglob("*"), reverse=True):
            item.rmdir() if item.is_dir() else item.unlink()
        seal(tmp_path, "1", {**sound_files(), LABELS: b"1x\n1y\n1z\nd\n"})

        done = await on.service.reload()

        assert done["tiny"].outcome == "loaded"
        assert (await on.classify())[1].predictions[0].label[:-1] == "1"
        with pytest.raises(ServingInvalid, match="TIDEGATE_MODELS"):
            await on.service.require_steps().promote("tiny", "canary", "operator")

    play(tmp_path, scenario, OneBundle(folder, state))


def test_a_version_that_was_replaced_in_its_folder_does_not_return_with_a_rollback(
    root: Path,
) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        replace_version(root, "1")
        await on.service.reload()
        now = on.service.choose(version="stable").served
        plan = on.service.catalog.model("tiny").plan.model_copy(update={"canary": None})

        assert await on.reloader.serve_now("tiny", plan)

        assert on.service.choose().served is now

    play(root, scenario)


def replace_version(root: Path, version: str) -> None:
    shutil.rmtree(root / "tiny" / version)
    labels = f"{version}x\n{version}y\n{version}z\nd\n".encode()
    seal(root, version, {**sound_files(), LABELS: labels})


def test_a_reload_that_read_the_file_before_a_step_does_not_undo_it(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        source = ModelFolder(Place(root), None)
        read_old, stepped = threading.Event(), threading.Event()

        def read() -> Wanted:
            wanted = source.read()
            read_old.set()
            assert stepped.wait(PATIENCE_S)
            return wanted

        reload = asyncio.create_task(on.reloader.reload(read))
        await asyncio.to_thread(read_old.wait, PATIENCE_S)
        plan = on.service.catalog.model("tiny").plan.model_copy(update={"canary": None})
        assert await on.reloader.serve_now("tiny", plan)
        stepped.set()
        await reload

        assert "canary" not in on.service.catalog.model("tiny").aliases

    play(root, scenario)


def test_a_version_that_is_used_again_while_another_one_saves_its_drift_state_is_watched(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(root, "3")
    serving(root, CANARY)
    saving, saved = threading.Event(), threading.Event()

    def save(*arguments: Any) -> None:  # as a slow disk
        saving.set()
        assert saved.wait(PATIENCE_S)

    monkeypatch.setattr(state, "save", save)

    async def scenario(on: Stage) -> None:
        plan = on.service.catalog.model("tiny").plan
        await asyncio.sleep(0)  # the watches start
        serving(root, '[tiny]\nstable = "3"\n')
        reload = asyncio.create_task(on.service.reload())
        await asyncio.to_thread(saving.wait, PATIENCE_S)
        back = asyncio.create_task(on.reloader.serve_now("tiny", plan))
        await until(lambda: on.service.choose(version="stable").served.version == "1")
        saved.set()
        await asyncio.gather(reload, back)

        for version in ("1", "2"):
            assert on.service.catalog.model("").version(version).watching is not None
        text = on.metrics.render().decode()
        assert text.count("tidegate_model_info{") == 2

    play(root, scenario, ModelFolder(Place(root), root / "drift"))


@pytest.mark.parametrize("when", ["sized", "probed", "built", "moved"])
def test_a_version_that_is_refused_late_leaves_no_engine(
    root: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    opened: list[Any] = []

    def noted(*arguments: Any) -> Any:
        opened.append(open_like(*arguments))
        return opened[-1]

    def refuse(*arguments: Any) -> None:
        raise BundleRefused("no")

    monkeypatch.setattr(loading, "open_like", noted)
    target = {"sized": "check_input_size", "probed": "check_golden", "moved": "check_files"}
    if when in target:
        monkeypatch.setattr(loading, target[when], refuse)

    async def scenario(on: Stage) -> None:
        if when == "built":
            monkeypatch.setattr(Builder, "build", refuse)

        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "refused"}

        assert opened
        assert all(engine._sessions == [] for engine in opened)

    play(root, scenario)


def test_a_file_that_changes_while_it_is_loaded_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(like: Any, model: Path, *more: Any) -> Any:
        model.write_bytes(b"another graph, which was not checked")
        shutil.copy(root / "tiny/1/model.onnx", root / "copy.onnx")
        return open_like(like, root / "copy.onnx", *more)

    monkeypatch.setattr(loading, "open_like", swapped)

    async def scenario(on: Stage) -> None:
        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "refused"}

        (why,) = on.service.catalog.model("tiny").refused.values()
        assert "model.onnx has changed" in why

    play(root, scenario)


def test_a_bundle_that_replaces_another_one_while_it_is_loaded_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loader.load

    async def replaced(self: Loader, path: Path, *more: Any) -> Any:
        replace_version(root, "2")
        return await load(self, path, *more)

    monkeypatch.setattr(Loader, "load", replaced)

    async def scenario(on: Stage) -> None:
        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "refused"}
        (why,) = on.service.catalog.model("tiny").refused.values()
        assert "has changed while it was read" in why

        assert {served.version for served in on.reloader.loaded} == {"1"}

    play(root, scenario)


def test_a_default_model_that_cannot_be_replaced_is_not_told_as_unloaded(root: Path) -> None:
    seal(root, "7", broken("other answers"), name="other")

    async def scenario(on: Stage) -> None:
        assert await on.serve('[other]\nstable = "7"\n') == {
            "other": "refused",
            "tiny": "unchanged",
        }
        assert (await on.classify())[0] == "1"

    play(root, scenario)


def test_the_weight_of_a_refused_plan_is_not_used(root: Path) -> None:
    seal(root, "3", broken("other answers"))

    async def scenario(on: Stage) -> None:
        canary = 'canary = { version = "3", share = 0.1 }'
        assert await on.serve(f'[tiny]\nstable = "1"\nweight = 5.0\n{canary}\n') == {
            "tiny": "refused"
        }
        assert on.service.choose().served.lane.weight == 1.0
        await on.serve('[tiny]\nstable = "1"\nweight = 5.0\n')
        assert on.service.choose().served.lane.weight == 5.0

    play(root, scenario)


def test_a_reload_that_is_requested_during_the_start_is_done_after_it(root: Path) -> None:
    async def scenario(on: Stage) -> None:
        done = {"model": "tiny", "outcome": "unchanged"}
        await until(lambda: on.value("tidegate_reload_total", **done) == 1.0)

    play(root, scenario, before=Service.request_reload)


def test_a_version_of_another_duration_is_recognised_at_its_first_batch_size(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def differs(turns: object, engine: OnnxEngine, size: int) -> bool:
        compared.append(size)
        return False

    monkeypatch.setattr(IdleTurns, "is_like_known", differs)

    async def scenario(on: Stage) -> None:
        assert len(on.service.choose().served.lane.latency.buckets) > 1
        assert await on.serve('[tiny]\nstable = "2"\n') == {"tiny": "loaded"}

        assert compared == [1]
        lane = on.service.choose().served.lane
        assert lane.engine.max_batch_size == max(lane.latency.buckets)  # others need no memory
        assert (await on.classify())[0] == "2"

    play(root, scenario)


@pytest.mark.parametrize("single_image_s", [None, 0.003])
def test_a_version_of_another_duration_has_all_cores_for_an_image_only_if_that_is_faster(
    root: Path, monkeypatch: pytest.MonkeyPatch, single_image_s: float | None
) -> None:
    measured: list[int] = []

    def measure(turns: object, engine: OnnxEngine, all_cores_engine: OnnxEngine) -> float | None:
        measured.append(all_cores_engine.info.threads_per_slot)
        return single_image_s

    monkeypatch.setattr(cpu_engines, "usable_cores", lambda: 2)
    monkeypatch.setattr(loading, "may_use_all_cores", lambda *_: True)
    monkeypatch.setattr(IdleTurns, "is_like_known", lambda *_: False)
    monkeypatch.setattr(IdleTurns, "single_image_s", measure)

    async def scenario(on: Stage) -> None:
        for version in ("2", "1", "2"):  # 1 was warmed up at the start, 2 is known then
            await on.serve(f'[tiny]\nstable = "{version}"\n')
            await on.reloader.tidy()

        assert measured == [2]
        lane = on.service.choose().served.lane
        assert (lane.all_cores_engine is not None) is (single_image_s is not None)
        if single_image_s is not None:
            assert lane.latency.single_image_s == single_image_s
        assert (await on.classify())[0] == "2"

    play(root, scenario, rollback_s=0.0)


def test_a_graph_that_was_loaded_before_keeps_what_is_known_of_its_durations(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []
    is_like_known = IdleTurns.is_like_known

    def noted(turns: Any, engine: OnnxEngine, size: int) -> bool:
        compared.append(size)
        return is_like_known(turns, engine, size)

    monkeypatch.setattr(IdleTurns, "is_like_known", noted)

    async def scenario(on: Stage) -> None:
        first = on.service.choose().served.lane.latency
        await on.serve('[tiny]\nstable = "2"\n')
        await on.reloader.tidy()
        assert compared != []
        compared.clear()

        await on.serve('[tiny]\nstable = "1"\n')

        again = on.service.choose().served.lane.latency
        assert compared == []
        assert again.buckets == first.buckets
        assert again.predict(1) == pytest.approx(first.predict(1), rel=0.5)

    play(root, scenario, rollback_s=0.0)
