"""A shadow becomes the canary on evidence: what it needs, and what it does not survive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tidegate.service.rollout.judge import Verdict
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.rollout.shadow import AnswerPair
from tidegate.service.rollout.shadow_judge import Claim, ShadowJudge
from tidegate.service.types import Decision

RULES = JudgeRules(promote_shadow=True)
PAIR = AnswerPair("a", 1, 1, "accept", "accept", 0.9, 0.9, stable_p_value=0.5, shadow_p_value=0.5)


def pairs(
    seed: int,
    n: int,
    *,
    other_class: float = 0.0,
    rejected: tuple[float, float] = (0.01, 0.01),
    power: float = 1.0,
) -> Iterator[AnswerPair]:
    """Yield images; `rejected` are the shares of stable and shadow."""
    random = np.random.default_rng(seed)
    for _ in range(n):
        classes = 1, 2 if random.random() < other_class else 1
        p = random.random()
        decisions: list[Decision] = [
            "reject" if random.random() < share else "accept" for share in rejected
        ]
        yield replace(
            PAIR,
            shadow_class=classes[1],
            stable_decision=decisions[0],
            shadow_decision=decisions[1],
            stable_p_value=p,
            shadow_p_value=p**power,
        )


def promoted_after(seed: int, n: int, **how: Any) -> int | None:
    """Return after how many images the shadow is promoted, if the judge looks every 50."""
    judge = ShadowJudge(RULES)
    for image, pair in enumerate(pairs(seed, n, **how), 1):
        judge.observe(pair)
        if image % 50 == 0 and judge.decide().step == "promote":
            return image
    return None


def why(verdict: Verdict) -> set[str]:
    return {finding.test for finding in verdict.why}


@pytest.mark.lengthy
def test_a_shadow_that_is_as_good_is_promoted() -> None:
    images = [promoted_after(seed, 20_000, other_class=0.1) for seed in range(10)]

    assert None not in images
    assert 2000 < float(np.median([n for n in images if n])) < 6000


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("margin", "values"),
    [
        (RULES.disagreements, lambda r, n: r.random(n) < RULES.disagreements),
        (RULES.rejections, lambda r, n: (r.random(n) < 0.02) * 1.0 - (r.random(n) < 0.01)),
        (RULES.errors, lambda r, n: r.random(n) < RULES.errors),
    ],
    ids=["disagreements", "rejections", "failures"],
)
def test_at_the_margin_a_claim_is_shown_with_at_most_the_stated_probability(
    margin: float, values: Callable[[np.random.Generator, int], Any]
) -> None:
    shown = 0
    for seed in range(100):
        claim = Claim("failures", margin)
        for value in values(np.random.default_rng(seed), 2500).tolist():
            claim.add(float(value))
        shown += claim.shown

    assert shown <= 12  # of 100 at 5 %: a larger number has a probability of 0.2 %


def test_near_duplicates_do_not_count() -> None:
    judge = ShadowJudge(RULES)
    for _ in range(5000):
        judge.observe(replace(PAIR, duplicate=True))
    assert why(judge.decide()) == {"images", "failures", "disagreements", "rejections"}


@pytest.mark.lengthy
def test_p_values_that_are_less_uniform_prevent_a_promotion() -> None:
    judge = ShadowJudge(RULES)
    for pair in pairs(0, 6000, power=2.0):
        judge.observe(pair)

    verdict = judge.decide()
    assert (verdict.step, why(verdict)) == ("wait", {"p-values"})
    assert "against 0.4" in verdict.why[0].text or "against 0.5" in verdict.why[0].text
    without = ShadowJudge(JudgeRules(promote_shadow=True, p_values=False))
    for pair in pairs(0, 6000, power=2.0):
        without.observe(pair)
    assert without.decide().step == "promote"


def test_p_values_of_both_versions_that_drift_are_no_alarm() -> None:
    judge = ShadowJudge(RULES)
    for pair in pairs(0, 6000):
        drifted = replace(
            pair, stable_p_value=pair.stable_p_value**3, shadow_p_value=pair.shadow_p_value**3
        )
        judge.observe(drifted)

    assert judge.decide().step == "promote"


def test_without_the_rule_it_waits_and_says_that_it_could() -> None:
    judge = ShadowJudge(JudgeRules(disagreements=1.0))
    for pair in pairs(0, 6000, other_class=0.9):
        judge.observe(pair)

    verdict = judge.decide()
    assert (verdict.step, why(verdict)) == ("wait", {"images"})
    assert "within the margins" in verdict.why[0].text


def test_the_report_has_the_evidence() -> None:
    judge = ShadowJudge(RULES)
    for pair in pairs(0, 640, other_class=0.05):
        judge.observe(pair)
    judge.observe_failure()

    found = judge.report()

    assert found["promotion_alpha"] == 0.05
    failures, disagreements, rejections = found["tests"]
    assert failures["images"] == 641
    assert failures["share"] == pytest.approx(1 / 641)
    assert 0.02 < disagreements["share"] < 0.09
    assert disagreements["shown"]
    assert not rejections["shown"] or rejections["e_value"] > 0
