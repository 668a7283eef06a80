"""What the judge of a canary and the one of a shadow get to see."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.stage import CANARY, PATIENCE_S, Stage, folder_of_models, play, serving, until
from tidegate.service.catalog import Choice
from tidegate.service.pipeline import Pipeline, Upload
from tidegate.service.rollout.judge import Judge
from tidegate.service.rollouts import Rollout

pytestmark = pytest.mark.process


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of_models(tmp_path)


def trial(on: Stage) -> tuple[Rollout, Judge]:
    rollout = on.service.catalog.model("tiny").rollout
    assert rollout is not None
    assert rollout.judge is not None
    return rollout, rollout.judge


async def answer(on: Stage, chosen: Choice, request_id: str, value: int = 0) -> None:
    """Classify one image, which depends on `value`, and remember the answer."""
    paths = sorted((on.root / "tiny/1/golden").glob("*.png"))
    image = paths[value % len(paths)].read_bytes()
    now = time.monotonic()
    result = await chosen.classify(Upload(image, now, now + PATIENCE_S, 1), request_id)
    on.service.remember(request_id, image, result, chosen.served.bundle)


def report(on: Stage, request_id: str) -> None:
    found = on.service.answers.label(request_id, 0)
    assert found is not None
    on.service.observe_feedback(found[0], correct=False)


def test_only_the_feedback_of_images_that_the_judge_has_counted_counts(root: Path) -> None:
    async def scenario(on: Stage) -> None:
        await answer(on, on.service.choose(request_id="before"), "before")
        await on.serve(CANARY)
        _, judge = trial(on)
        await answer(on, on.service.choose(version="canary", request_id="named"), "named")
        await answer(on, on.service.choose(key="k", request_id="one"), "one", 1)
        await answer(on, on.service.choose(key="k", request_id="two"), "two")

        for request_id in ("before", "named", "two"):
            report(on, request_id)
        assert judge._waiting_feedback == []
        report(on, "one")
        assert len(judge._waiting_feedback) == 1

    play(root, scenario)


def test_a_bug_in_answering_is_an_error_of_its_version(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving(root, CANARY)

    async def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    async def scenario(on: Stage) -> None:
        _, judge = trial(on)
        monkeypatch.setattr(Pipeline, "classify", fail)

        with pytest.raises(RuntimeError):
            await answer(on, on.service.choose(request_id="r"), "r")

        judge.decide()
        assert sum(judge.images) == 1
        assert sum(judge.errors.images) == 1
        assert judge.errors.mean(0) == 1.0 or judge.errors.mean(1) == 1.0

    play(root, scenario)


def test_a_shadow_is_promoted_on_evidence_and_not_on_a_count(root: Path) -> None:
    rules = "promote_shadow = true\nleast_images = 100\n"
    serving(
        root,
        f'[tiny]\nstable = "1"\nshadow = {{ version = "2", share = 1.0 }}\n[tiny.judge]\n{rules}',
    )

    async def scenario(on: Stage) -> None:
        rollout = on.service.catalog.model("tiny").rollout
        assert rollout is not None
        shadowing = rollout.shadowing
        assert shadowing is not None
        await answer(on, on.service.choose(request_id="r"), "r")
        await until(lambda: shadowing.judge.images == 1)
        shadowing.judge.images = 10_000

        await on.service.require_steps().judge()

        assert on.service.events("tiny") == ()
        promotion = shadowing.report()["promotion"]
        assert [why["test"] for why in promotion["why"]] == [
            "failures",
            "disagreements",
            "rejections",
        ]

    play(root, scenario)
