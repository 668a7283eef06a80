"""Versions change while the service answers: reload, canary, shadow, promotion and rollback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.bundle.tiny_bundle import (
    Files,
    golden_arrays,
    npz,
    put,
    sound_files,
)
from tidegate.service import lifecycle, memory, steps
from tidegate.service.bundle.store import GOLDEN, LABELS
from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import (
    BundleRefused,
    NotFound,
    ServingInvalid,
    ServingNotWritable,
)
from tidegate.service.lifecycle import Service, ServiceConfig
from tidegate.service.loading import Loader
from tidegate.service.metrics import Metrics
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.rollout.outcomes import Outcome
from tidegate.service.serving.serving_file import Place
from tidegate.service.startup import ServingConfig
from tidegate.service.wanted import ModelFolder, OneBundle, Source

pytestmark = pytest.mark.process
PATIENCE_S = 60.0


def seal(root: Path, version: str, files: Files | None = None, name: str = "tiny") -> Path:
    """Write a version whose labels name it."""
    files = files or {**sound_files(), LABELS: f"{version}a\n{version}b\n{version}c\nd\n".encode()}

    def change(fields: dict[str, Any]) -> None:
        fields["name"], fields["version"] = name, version

    return put(root / name / version, files, change)


def serving(root: Path, text: str) -> None:
    (root / "serving.toml").write_text(text)


CANARY = '[tiny]\nstable = "1"\ncanary = { version = "2", share = 0.3 }\n'


@dataclass
class Stage:
    """A started service and what a test needs to look at it."""

    root: Path
    service: Service
    metrics: Metrics

    async def serve(self, text: str) -> dict[str, str]:
        """Write the serving file, reload, and return each model's outcome."""
        serving(self.root, text)
        return {name: done.outcome for name, done in (await self.service.reload()).items()}

    async def classify(self, **how: str) -> tuple[str, Classification]:
        """Classify one image; return the version that answered, too."""
        chosen = self.service.choose(**how)
        image = (self.root / "tiny/1/golden/grey.png").read_bytes()
        now = time.monotonic()
        result = await chosen.classify(Upload(image, now, now + PATIENCE_S, 1), "r1")
        assert result.predictions[0].label[:-1] in (chosen.served.version, "")
        return chosen.served.version, result

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def config(source: Source, **changes: Any) -> ServiceConfig:
    given = {
        "serving": ServingConfig(
            engine=EngineConfig("onnx-cpu", slots=2, threads_per_slot=1, max_batch_size=2),
            max_queue=100,
            default_deadline_s=PATIENCE_S,
            decode_threads=0,
            max_image_pixels=10**6,
            engine_timeout_s=PATIENCE_S,
        ),
        "max_class_series": 10,
        "drift_run_length": 10**6,
        "review": None,
        **changes,
    }
    return ServiceConfig(source=source, **given)


@pytest.fixture(autouse=True)
def _no_decoder_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting them takes a second each, and these images are small."""
    monkeypatch.setattr(lifecycle, "start_decoder_pool", lambda max_image_pixels: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with versions 1 and 2 of one model, of which 1 is stable."""
    for version in ("1", "2"):
        seal(tmp_path, version)
    serving(tmp_path, '[tiny]\nstable = "1"\n')
    return tmp_path


async def until(done: Callable[[], bool]) -> None:
    """Wait for something that happens on another thread."""
    while not done():  # noqa: ASYNC110 - the service has no event for tests
        await asyncio.sleep(0.01)


def play(
    root: Path,
    scenario: Callable[[Stage], Awaitable[None]],
    source: Source | None = None,
    **changes: Any,
) -> None:
    """Start a service, run the scenario, and close the service."""

    async def main() -> None:
        metrics = Metrics("test")
        service = Service(config(source or ModelFolder(Place(root), None), **changes), metrics)
        async with asyncio.timeout(2 * PATIENCE_S):
            await service.start()
            try:
                await scenario(Stage(root, service, metrics))
            finally:
                assert await service.close(PATIENCE_S)

    asyncio.run(main())


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
        before = on.service.choose().served
        await on.classify()
        text = on.metrics.render().decode()
        assert f'digest="{before.bundle.short_digest}"' in text

        await on.serve('[tiny]\nstable = "2"\n')

        assert f'digest="{before.bundle.short_digest}"' not in on.metrics.render().decode()
        assert before.watching is None
        reloader = on.service._reloader
        assert reloader is not None
        assert [str(served) for served in reloader.loaded()] != []
        await reloader.tidy()
        assert before not in list(reloader.loaded())
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
        reloader = on.service._reloader
        assert reloader is not None
        assert {served.version for served in reloader.loaded()} == {"2", "3"}

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
        reloader = on.service._reloader
        assert reloader is not None
        with chosen.served.lane.receiving():
            await on.serve('[tiny]\nstable = "2"\n')
            await reloader.tidy()
            now = time.monotonic()
            image = (root / "tiny/1/golden/grey.png").read_bytes()
            result = await chosen.classify(Upload(image, now, now + PATIENCE_S, 1), "r1")

        assert result.predictions[0].label[:-1] in ("1", "")
        await reloader.tidy()
        assert chosen.served not in list(reloader.loaded())

    play(root, scenario, rollback_s=0.0)


def test_a_step_on_a_canary_that_is_another_one_now_changes_nothing(root: Path) -> None:
    seal(root, "3")
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        serving(root, CANARY.replace('"2"', '"3"'))

        with pytest.raises(ServingInvalid, match="canary is version 3, not 2"):
            await on.service.require_steps().roll_back("tiny", "judge", expected="2")

        assert on.service.catalog.model("tiny").aliases == {"stable": "1", "canary": "3"}

    play(root, scenario)


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


def test_the_judge_ends_a_canary_that_fails_and_the_file_says_so(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        rollout = on.service.catalog.model("tiny").rollout
        assert rollout is not None
        assert rollout.judge is not None
        for n in range(4000):
            outcome = Outcome("error" if n % 2 else "answered", float(n), 0.01, 0, 0.5)
            rollout.judge.observe("canary" if n % 2 else "stable", outcome)
        await on.service.require_steps().judge()

        assert {on.service.choose(request_id=f"r{n}").served.version for n in range(99)} == {"1"}
        assert (root / "serving.toml").read_text() == '[tiny]\nstable = "1"\n'
        (event,) = on.service.events("tiny")
        assert (event.step, event.by, event.version, event.kept) == ("rollback", "judge", "2", True)
        assert "error" in event.why[0]
        assert on.value("tidegate_rollout_steps_total", model="tiny", step="rollback") == 1.0

    play(root, scenario)


def test_an_operator_promotes_the_canary_and_goes_back(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        by = on.service.require_steps()
        await by.promote("tiny", "canary", "operator")
        assert (await on.classify())[0] == "2"
        assert (await on.classify(version="previous"))[0] == "1"
        await by.roll_back("tiny", "operator")
        assert (await on.classify())[0] == "1"
        with pytest.raises(ServingInvalid, match="nothing to roll back"):
            await by.roll_back("tiny", "operator")
        assert [event.step for event in on.service.events("tiny")] == ["rollback", "promote"]

    play(root, scenario)


def test_a_step_holds_in_memory_if_the_file_cannot_be_written(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(root, CANARY)

    def refuse(*arguments: Any) -> bool:
        raise ServingNotWritable("serving.toml cannot be written: Read-only file system.")

    monkeypatch.setattr(steps, "update", refuse)

    async def scenario(on: Stage) -> None:
        event = await on.service.require_steps().promote("tiny", "canary", "operator")

        assert not event.kept
        assert (await on.classify())[0] == "2"
        assert (root / "serving.toml").read_text() == CANARY

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
        await until(lambda: rollout.compared > 0)

        assert rollout.shadowing is not None
        report = rollout.shadowing.report.report()
        assert report["same_class"]["share"] == 1.0
        assert on.value("tidegate_shadow_images_total", model="tiny", outcome="compared") == 1.0

    play(root, scenario)


def test_the_file_is_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_POLL_S", 0.01)

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
