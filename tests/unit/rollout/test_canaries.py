"""The simulated canaries that the guide quotes: an equal one is rolled back within alpha."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rollout.canaries import EQUAL, PROMOTED, Scenario, Version, changed, run, summary
from tidegate.service.rollout.rules import JudgeRules

RESULT: dict[str, Any] = json.loads(Path(__file__).with_name("canaries.json").read_text("utf-8"))
ROWS: list[dict[str, Any]] = RESULT["rows"]
WORSE = [*changed(0.05), *changed(0.2), *changed(0.5), *changed(0.2, run=5)]


def test_the_result_is_of_these_scenarios_and_the_default_rules() -> None:
    assert RESULT["rules"] == JudgeRules().model_dump()
    assert [(row["name"], row["share"], row["run"], row["most"]) for row in ROWS] == [
        (one.name, None if one.rising else one.share, one.run, one.most)
        for one in (*EQUAL, *PROMOTED, *WORSE)
    ]


def test_an_equal_canary_is_rolled_back_no_more_often_than_alpha() -> None:
    for row in ROWS:
        if row["name"] == "equal":
            assert row["runs"] >= 1000
            assert row["rolled_back"] <= RESULT["rules"]["alpha"] * row["runs"], row


def test_every_worse_canary_is_rolled_back_for_its_fault() -> None:
    for row in ROWS[len(EQUAL) + len(PROMOTED) :]:
        assert row["rolled_back"] >= 0.9 * row["runs"], row
        assert row["runs"] >= 100


def test_a_summary_counts_what_was_not_reached() -> None:
    found: list[dict[str, Any]] = [
        {"rolled_back": images, "promotable": 0, "tests": ["late"] if images else []}
        for images in (0, 300, 100, 200)
    ]
    row = summary(Scenario("few"), found)

    assert row["rolled_back"] == 3
    assert row["until_rollback"] == [200, None]
    assert row["until_promotable"] == [None, None]
    assert row["tests"] == ["late"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("length", [1, 5, 10])
def test_fifty_equal_canaries_that_are_evaluated_as_in_the_service(length: int) -> None:
    """With an alpha of .01, four of fifty would happen once in 600 times."""
    scenario = Scenario("equal", Version(), Version(), share=0.5, run=length, feedback=0.1, look=64)
    rolled_back = sum(run(scenario, seed)["rolled_back"] > 0 for seed in range(50))

    assert rolled_back < 4
