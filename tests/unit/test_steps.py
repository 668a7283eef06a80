"""Promotions and rollbacks are served, written, remembered, and hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.stage import CANARY, Stage, folder_of_models, play, seal, serving
from tidegate.service import steps
from tidegate.service.errors import ServingInvalid, ServingNotWritable
from tidegate.service.rollout.judge import Verdict
from tidegate.service.rollout.outcomes import Outcome
from tidegate.service.serving.edit import Change, update
from tidegate.service.serving.serving_file import Place

pytestmark = pytest.mark.process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of_models(tmp_path)


def test_a_step_on_a_canary_that_is_another_one_now_changes_nothing(root: Path) -> None:
    seal(root, "3")
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        serving(root, CANARY.replace('"2"', '"3"'))

        with pytest.raises(ServingInvalid, match="canary is version 3, not 2"):
            await on.service.require_steps().roll_back("tiny", "judge", expected="2")

        assert on.service.catalog.model("tiny").aliases == {"stable": "1", "canary": "3"}

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


@pytest.fixture
def _read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A serving file that cannot be written, as a ConfigMap."""

    def refuse(*arguments: Any) -> bool:
        raise ServingNotWritable("serving.toml cannot be written: Read-only file system.")

    monkeypatch.setattr(steps, "update", refuse)


@pytest.mark.usefixtures("_read_only")
def test_a_step_holds_in_memory_if_the_file_cannot_be_written(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        event = await on.service.require_steps().promote("tiny", "canary", "operator")

        assert not event.kept
        assert (await on.classify())[0] == "2"
        assert (root / "serving.toml").read_text() == CANARY

    play(root, scenario)


TWO_CANARIES = f"""default = "tiny"
{CANARY}
[other]
stable = "1"
canary = {{ version = "2", share = 0.3 }}
"""


def canaries(on: Stage) -> list[str]:
    return [name for name, model in on.service.catalog.models.items() if "canary" in model.aliases]


def with_other_model(root: Path) -> None:
    for version in ("1", "2"):
        seal(root, version, name="other")
    serving(root, TWO_CANARIES)


@pytest.mark.usefixtures("_read_only")
def test_a_held_step_outlives_reloads_and_new_folders_and_steps_of_other_models(
    root: Path,
) -> None:
    with_other_model(root)

    async def scenario(on: Stage) -> None:
        by = on.service.require_steps()
        await by.roll_back("tiny", "judge")
        await on.service.reload()
        assert canaries(on) == ["other"]
        seal(root, "3")
        await on.service.reload()
        assert canaries(on) == ["other"]
        await by.roll_back("other", "judge")
        assert canaries(on) == []

        await on.serve(TWO_CANARIES.replace("0.3", "0.2"))
        assert canaries(on) == ["tiny", "other"]
        await on.serve(TWO_CANARIES)
        assert canaries(on) == ["tiny", "other"]

    play(root, scenario)


@pytest.mark.usefixtures("_read_only")
def test_a_held_step_is_the_beginning_of_the_next_one(root: Path) -> None:
    serving(root, '[tiny]\nstable = "1"\nshadow = { version = "2", share = 0.1 }\n')

    async def scenario(on: Stage) -> None:
        by = on.service.require_steps()
        await by.promote("tiny", "shadow", "judge", expected="2")
        assert on.service.catalog.model("tiny").aliases == {"stable": "1", "canary": "2"}
        await by.roll_back("tiny", "judge", expected="2")

        assert on.service.catalog.model("tiny").aliases == {"stable": "1"}

    play(root, scenario)


@pytest.mark.usefixtures("_read_only")
def test_a_new_version_enters_by_the_rule_after_a_held_rollback(root: Path) -> None:
    rule = 'new_versions = { alias = "canary", share = 0.3 }'
    serving(root, f'[tiny]\nstable = "1"\n{rule}\n')

    async def scenario(on: Stage) -> None:
        await on.service.require_steps().roll_back("tiny", "judge", expected="2")
        assert on.service.catalog.model("tiny").aliases == {"stable": "1"}
        seal(root, "3")
        await on.service.reload()

        assert on.service.catalog.model("tiny").aliases == {"stable": "1", "canary": "3"}

    play(root, scenario)


def test_a_rollback_is_recorded_although_the_file_is_invalid(root: Path) -> None:
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        serving(root, "[tiny]\nstabel = 1\n")

        event = await on.service.require_steps().roll_back("tiny", "judge", expected="2")

        assert (event.step, event.version, event.kept) == ("rollback", "2", False)
        assert canaries(on) == []
        assert on.service.events("tiny") == (event,)

    play(root, scenario)


def test_an_event_names_the_version_that_the_file_named(root: Path) -> None:
    seal(root, "3")
    serving(root, CANARY)

    async def scenario(on: Stage) -> None:
        serving(root, CANARY.replace('"2"', '"3"'))  # not yet noticed

        event = await on.service.require_steps().promote("tiny", "canary", "operator")

        assert event.version == on.service.choose().served.version == "3"

    play(root, scenario)


def test_a_step_that_fails_does_not_keep_other_models_from_theirs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_other_model(root)

    def roll_back() -> Verdict:
        return Verdict("rollback", ())

    async def scenario(on: Stage) -> None:
        for model in on.service.catalog.models.values():
            assert model.rollout is not None
            assert model.rollout.judge is not None
            monkeypatch.setattr(model.rollout.judge, "decide", roll_back)

        def refuse_one(place: Place, name: str, change: Change) -> bool:
            if name == "tiny":
                raise ServingInvalid("no")
            return update(place, name, change)

        monkeypatch.setattr(steps, "update", refuse_one)
        with pytest.raises(ServingInvalid, match="no"):
            await on.service.require_steps().judge()

        assert [event.step for event in on.service.events("other")] == ["rollback"]

    play(root, scenario)
