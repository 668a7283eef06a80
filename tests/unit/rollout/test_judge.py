"""A canary that is worse is rolled back, one that is as good is promoted, and a report says why."""

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.rollout.canaries import CHANGES, Scenario, Traffic, Version, changed, run
from tidegate.service.rollout.judge import Judge, Verdict
from tidegate.service.rollout.outcomes import KINDS, Arm, Outcome
from tidegate.service.rollout.rules import JudgeRules

CLASSES = 10
GOOD = Outcome("answered", 0.0, 0.02, class_id=3, p_value=0.5)


def judged(
    scenario: Scenario, images: int, rules: JudgeRules | None = None, seed: int = 1
) -> Judge:
    """Return a judge that has seen so many images of a scenario."""
    traffic = Traffic(scenario, seed)
    judge = Judge(rules or JudgeRules(), CLASSES, at=0.0)
    for _ in range(images // 128):
        some, wrong = traffic.next(128)
        judge.observe_all(some)
        if scenario.feedback:
            judge.observe_feedback_all(some.canary, wrong)
    return judge


def names(verdict: Verdict) -> set[str]:
    return {why.test for why in verdict.why}


@pytest.mark.parametrize("scenario", changed(0.3), ids=lambda scenario: scenario.name)
def test_a_worse_canary_is_rolled_back_for_its_fault(scenario: Scenario) -> None:
    expected = {
        "errors of 1 %": "errors",
        "every image fails": "errors",
        "504 twice as often, 5 → 10 %": "late",
        "1.5 × slower": "latency",
        "rejections + 5 points": "rejections",
        "one of ten classes missing": "classes",
        "p-values squared": "p-values",
        "agreement 90 → 85 %": "feedback",
    }
    assert expected.keys() == CHANGES.keys()

    found = run(scenario, seed=1)

    assert found["tests"] == [expected[scenario.name]]


@pytest.mark.lengthy
@pytest.mark.parametrize("run_length", [1, 10])
def test_an_equal_canary_stays_and_is_shown_to_be_within_the_margins(run_length: int) -> None:
    version = Version(errors=0.0)
    scenario = Scenario("equal", version, version, run=run_length, share=0.3, feedback=1.0)
    judge = judged(scenario, 60_000, JudgeRules(promote=True))

    assert judge.decide().step == "promote"
    assert "errors, late, latency, rejections" in judge.decide().why[0].text


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "better",
    [
        Version(errors=0.0, late=0.0, latency=0.3, rejections=0.0, agreement=1.0),
        Version(p_values=1.0),
    ],
    ids=["in everything", "uniform p-values"],
)
def test_a_better_canary_is_no_alarm(better: Version) -> None:
    """The stable version suffers from drift: it makes errors, and its p-values are too small."""
    stable = Version(errors=0.05, p_values=3.0, agreement=0.5)
    judge = judged(Scenario("better", stable, better, share=0.3, feedback=1.0), 30_000)

    assert not {test["test"] for test in judge.report(1.0)["tests"] if test["alarm"]}


@pytest.mark.lengthy
def test_drift_of_both_versions_is_no_alarm() -> None:
    drifted = Version(errors=0.02, late=0.05, rejections=0.3, p_values=3.0, agreement=0.5)
    judge = judged(Scenario("drift", drifted, drifted, share=0.3, feedback=1.0), 30_000)

    assert judge.decide().step == "wait"
    assert not any(test["alarm"] for test in judge.report(1.0)["tests"])


def test_a_share_that_rises_while_traffic_changes_is_no_alarm() -> None:
    assert not run(Scenario("rising", rising=True, most=6000, feedback=0.5), seed=1)["rolled_back"]


def test_a_decided_step_stays() -> None:
    judge = judged(Scenario("bad", canary=Version(errors=1.0), share=0.3), 2_000)
    before = judge.decide()
    for _ in range(3_000):
        judge.observe("canary", GOOD)
        judge.observe("stable", GOOD)

    assert before.step == "rollback"
    assert judge.decide() is before


@pytest.mark.lengthy
def test_without_rollback_the_alarm_is_told_and_the_canary_is_not_promoted() -> None:
    rules = JudgeRules(rollback=False, promote=True)
    judge = judged(Scenario("slow", canary=Version(latency=3.0), share=0.3), 60_000, rules)

    verdict = judge.decide()
    assert verdict.step == "wait"
    assert names(verdict) == {"latency"}
    assert "ms" in verdict.why[0].text


@pytest.mark.lengthy
def test_without_promote_it_says_that_it_could() -> None:
    judge = judged(Scenario("equal", share=0.3), 60_000)

    assert judge.decide().step == "wait"
    assert judge.decide().why[0].text.startswith("No comparison alarms")


def test_what_is_missing_for_a_promotion_is_named() -> None:
    judge = judged(Scenario("equal", share=0.3), 1_280, JudgeRules(promote=True))
    images = judge.images[1]

    verdict = judge.decide()
    assert verdict.step == "wait"
    assert verdict.why[0].text == f"{1000 - images} more images of the canary are needed."
    assert {"errors", "rejections"} <= names(verdict)


@pytest.mark.lengthy
def test_the_estimate_of_missing_images_is_of_the_right_size() -> None:
    """Without an error the evidence grows steadily, so the estimate has only rounding errors."""
    nothing = Version(errors=0.0)
    scenario = Scenario("no errors", nothing, nothing, share=0.3)
    at = judged(scenario, 6_400)
    more = at.errors.missing()
    assert more is not None
    after = judged(scenario, round((at.images[1] + more * 1.3) / 0.3))
    before = judged(scenario, round((at.images[1] + more * 0.7) / 0.3))

    assert after.errors.shown
    assert not before.errors.shown


@pytest.mark.lengthy
def test_a_canary_at_the_margin_is_not_promoted() -> None:
    """It has 1 point more rejections, which is the margin."""
    judge = judged(Scenario("margin", canary=Version(rejections=0.02), share=0.3), 60_000)

    assert "rejections" in names(judge.decide()) or judge.decide().step == "rollback"


def test_of_one_key_the_first_image_counts() -> None:
    """All images of a key go to the same version, so they are one choice."""
    judge = Judge(JudgeRules(), CLASSES, at=0.0)
    for i in range(1000):
        bad = i % 4 == 0
        outcome = replace(GOOD, kind="error" if bad else "answered", received=float(i))
        judge.observe("canary" if bad else "stable", outcome, key=f"camera-{i % 4}")
    judge.decide()

    assert judge.images == [3, 1]
    assert judge.repeated_keys == 996
    assert judge.decide().step == "wait"


def test_without_keys_the_same_images_are_an_alarm() -> None:
    judge = Judge(JudgeRules(), CLASSES, at=0.0)
    for i in range(1000):
        bad = i % 4 == 0
        judge.observe(
            "canary" if bad else "stable", replace(GOOD, kind="error" if bad else "answered")
        )

    assert names(judge.decide()) == {"errors"}


def test_near_duplicates_count_for_errors_and_latency_only() -> None:
    judge = Judge(JudgeRules(), CLASSES, at=0.0)
    for i in range(256):
        judge.observe("canary" if i % 2 else "stable", replace(GOOD, duplicate=i % 4 < 2))
    found = {test["test"]: test["images"] for test in judge.report(1.0)["tests"]}

    assert found["errors"] == found["latency"] == {"stable": 128, "canary": 128}
    assert found["rejections"] == found["p-values"] == {"stable": 64, "canary": 64}
    assert judge.report(1.0)["not_counted"]["duplicates"] == 128


def test_images_are_grouped_by_arrival_not_by_answer() -> None:
    """A batch of the canary ends at once; by arrival its images lie among the stable version's."""
    judge = Judge(JudgeRules(), CLASSES, at=0.0)
    for at in range(0, 6400, 128):
        for canary in (False, True):
            for i in range(at + canary, at + 128, 2):
                outcome = replace(GOOD, latency_s=0.05 if canary else 0.02, received=float(i))
                judge.observe("canary" if canary else "stable", outcome)

    assert names(judge.decide()) == {"latency"}


def test_one_by_one_is_the_same_as_all_at_once() -> None:
    some, _ = Traffic(Scenario("equal", share=0.3), 1).next(128)
    together, single = (Judge(JudgeRules(), CLASSES, at=0.0) for _ in range(2))
    together.observe_all(some)
    for i in range(128):
        single.observe(
            "canary" if some.canary[i] else "stable",
            Outcome(
                KINDS[some.kinds[i]],
                float(some.received[i]),
                float(some.latencies_s[i]),
                int(some.classes[i]),
                float(some.p_values[i]),
                bool(some.rejected[i]),
            ),
        )

    assert single.report(1.0) == together.report(1.0)


def test_feedback_is_compared() -> None:
    judge = Judge(JudgeRules(), CLASSES, at=0.0)
    for i in range(2000):
        judge.observe_feedback("canary" if i % 2 else "stable", agrees=i % 4 != 1)

    assert names(judge.decide()) == {"feedback"}


def test_p_values_may_be_left_out() -> None:
    scenario = Scenario("p", canary=Version(p_values=3.0), share=0.3)
    judge = judged(scenario, 10_000, JudgeRules(p_values=False))

    rows: dict[str, Any] = {test["test"]: test for test in judge.report(1.0)["tests"]}
    assert "p-values" not in rows
    assert rows["errors"]["bound"] == 600
    assert judge.decide().step == "wait"


def test_the_report_has_numbers_and_words_for_every_comparison() -> None:
    report = judged(Scenario("equal", share=0.3, feedback=0.1), 12_800).report(now=60.0)

    assert report["running_s"] == 60.0
    assert sum(report["images"].values()) == 12_800
    assert [test["test"] for test in report["tests"]] == [
        "errors",
        "late",
        "latency",
        "rejections",
        "p-values",
        "classes",
        "feedback",
    ]
    for test in report["tests"]:
        assert test["bound"] == 700
        assert 0 < test["e_value"] < 700
        assert test["text"]
        assert test["images"]["stable"] > test["images"]["canary"] > 0
    latency = report["tests"][2]
    assert latency["stable"] == pytest.approx(0.02, rel=0.2)
    assert latency["margin"] == 1.2


def test_before_any_image_the_report_is_empty() -> None:
    report = Judge(JudgeRules(), CLASSES, at=0.0).report(now=1.0)

    assert report["step"] == "wait"
    assert {test["e_value"] for test in report["tests"]} == {1.0}
    assert all("no images" in test["text"] for test in report["tests"])


@pytest.mark.lengthy
def test_memory_does_not_grow_with_images() -> None:
    judge = Judge(JudgeRules(), 1000, at=0.0)

    def observe(images: int) -> int:
        for i in range(images):
            arm: Arm = "canary" if i % 3 == 0 else "stable"
            judge.observe(arm, replace(GOOD, received=float(i)), key=f"key-{i}")
        judge.decide()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = observe(2_000)
        after = observe(6_000)
    finally:
        tracemalloc.stop()
    assert after - before < 50_000


@pytest.mark.lengthy
def test_ten_thousand_classes_find_a_mix_that_moved() -> None:
    """A fifth of the canary's images go to one class."""
    rng = np.random.default_rng(1)
    judge = Judge(JudgeRules(), 10_000, at=0.0)
    for _ in range(30_000):
        canary = bool(rng.random() < 0.3)
        moved = canary and rng.random() < 0.2
        outcome = replace(
            GOOD,
            class_id=7 if moved else int(rng.integers(10_000)),
            p_value=float(rng.random()),
            latency_s=float(rng.random()),
        )
        judge.observe("canary" if canary else "stable", outcome)
    rows = {test["test"]: test for test in judge.report(1.0)["tests"]}

    assert names(judge.decide()) == {"classes"}
    assert rows["classes"]["leading"][0]["class_id"] == 7


@pytest.mark.parametrize("wrong", [{"alfa": 0.1}, {"alpha": 0.0}, {"latency": 0.5}])
def test_rules_are_closed_and_bounded(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"validation error"):
        JudgeRules.model_validate(wrong)


@pytest.mark.parametrize("arms", [(), ("canary",), ("stable",)], ids=["none", "canary", "stable"])
def test_no_difference_is_reported_before_both_versions_have_images(arms: tuple[Arm, ...]) -> None:
    judge = Judge(JudgeRules(promote=True), CLASSES, at=0.0)
    for arm in arms:
        judge.observe(arm, GOOD)

    texts = [why.text for why in judge.decide().why if why.test != "images"]

    assert {text.split(": ", 2)[2] for text in texts} == {"no images of both versions yet."}


def test_a_difference_is_reported_once_both_versions_have_images() -> None:
    judge = Judge(JudgeRules(promote=True), CLASSES, at=0.0)
    judge.observe("canary", GOOD)
    judge.observe("stable", GOOD)

    texts = [why.text for why in judge.decide().why if why.test != "images"]

    assert all("too close to the margin to show it." in text for text in texts)
