from __future__ import annotations

import pytest

from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.changes import (
    in_words,
    place_version,
    promote,
    require_served,
    roll_back,
)
from tidegate.service.serving.plan import ModelPlan, NewVersions, Trial

VERSIONS = ("1", "2", "3", "4", "5", "6")
CANARY = Trial(version="4", share=0.1)
SHADOW = Trial(version="5", share=0.2)
PLAN = ModelPlan(stable="3", canary=CANARY, shadow=SHADOW, aliases={"previous": "2"})
NEW_AS_SHADOW = NewVersions(alias="shadow", share=0.5)
NEW_AS_CANARY = NewVersions(alias="canary", share=0.5)


def test_a_promoted_canary_is_stable_and_the_old_stable_version_previous() -> None:
    assert promote(PLAN, VERSIONS) == ModelPlan(
        stable="4", shadow=SHADOW, aliases={"previous": "3"}
    )


def test_a_promoted_shadow_is_the_canary() -> None:
    plan = PLAN.model_copy(update={"canary": None})

    assert promote(plan, VERSIONS, "shadow", 0.3) == ModelPlan(
        stable="3", canary=Trial(version="5", share=0.3), aliases={"previous": "2"}
    )
    with pytest.raises(ServingInvalid, match=r"Version 4 is the canary. Promote or remove it"):
        promote(PLAN, VERSIONS, "shadow")


def test_what_is_not_there_is_not_promoted() -> None:
    with pytest.raises(ServingInvalid, match="There is no canary"):
        promote(ModelPlan(stable="3"), VERSIONS)
    with pytest.raises(ServingInvalid, match="There is no shadow"):
        promote(ModelPlan(stable="3"), VERSIONS, "shadow")
    with pytest.raises(ServingInvalid, match="The model is not served yet"):
        require_served(None)


def test_only_the_version_that_was_judged_is_promoted_or_rolled_back() -> None:
    with pytest.raises(ServingInvalid, match="The canary is version 4, not 6"):
        promote(PLAN, VERSIONS, expected="6")
    with pytest.raises(ServingInvalid, match="The canary is version 4, not 6"):
        roll_back(PLAN, VERSIONS, expected="6")
    with pytest.raises(ServingInvalid, match="There is no canary"):
        roll_back(promote(PLAN, VERSIONS), VERSIONS, expected="4")
    assert promote(PLAN, VERSIONS, expected="4").stable == "4"


def test_a_roll_back_removes_the_canary_first_and_then_returns_to_the_previous_version() -> None:
    once = roll_back(PLAN, VERSIONS)
    twice = roll_back(once, VERSIONS)

    assert once == PLAN.model_copy(update={"canary": None})
    assert twice == ModelPlan(stable="2", shadow=SHADOW)
    with pytest.raises(ServingInvalid, match="nothing to roll back: version 2 is stable"):
        roll_back(twice, VERSIONS)


def test_a_previous_version_that_is_stable_already_is_nothing_to_roll_back_to() -> None:
    with pytest.raises(ServingInvalid, match="nothing to roll back"):
        roll_back(ModelPlan(stable="2", aliases={"previous": "2"}), VERSIONS)


def test_a_roll_back_undoes_a_promotion_of_the_latest_version() -> None:
    latest = ModelPlan(stable="latest", canary=CANARY)

    promoted = promote(latest, VERSIONS)

    assert promoted == ModelPlan(stable="4", aliases={"previous": "6"})
    assert roll_back(promoted, VERSIONS) == ModelPlan(stable="6")


def test_names_are_given_and_removed() -> None:
    plan = place_version(None, VERSIONS, "stable", "3")
    assert plan == ModelPlan(stable="3")
    plan = place_version(plan, VERSIONS, "canary", "4", 0.1)
    plan = place_version(plan, VERSIONS, "good", "1")
    assert plan == ModelPlan(stable="3", canary=CANARY, aliases={"good": "1"})
    assert place_version(plan, VERSIONS, "canary", "5").canary == Trial(version="5", share=0.1)
    assert place_version(plan, VERSIONS, "canary", None).canary is None
    assert place_version(plan, VERSIONS, "good", None).aliases == {}
    assert place_version(plan, VERSIONS, "absent", None) == plan


def test_a_stable_version_that_is_set_can_be_rolled_back() -> None:
    plan = place_version(ModelPlan(stable="3"), VERSIONS, "stable", "6")

    assert plan == ModelPlan(stable="6", aliases={"previous": "3"})
    assert place_version(plan, VERSIONS, "stable", "6") == plan
    assert roll_back(plan, VERSIONS).stable == "3"


def test_the_latest_version_is_pinned_by_its_name() -> None:
    assert place_version(ModelPlan(stable="latest"), VERSIONS, "stable", "6").stable == "6"


@pytest.mark.parametrize(
    ("alias", "version", "share", "problem"),
    [
        ("stable", None, None, "A model always has a stable version"),
        ("stable", "4", 0.1, "stable has no share: only canary and shadow have one"),
        ("good", "4", 0.1, "good has no share"),
        ("canary", "4", None, "canary needs a share, for example canary=4:0.05"),
    ],
)
def test_an_impossible_name_is_refused(
    alias: str, version: str | None, share: float | None, problem: str
) -> None:
    with pytest.raises(ServingInvalid, match=problem):
        place_version(ModelPlan(stable="3"), VERSIONS, alias, version, share)
    with pytest.raises(ServingInvalid, match="The model is not served yet"):
        place_version(None, VERSIONS, "canary", "4", 0.1)


def test_a_version_that_entered_by_the_rule_is_promoted_like_another() -> None:
    plan = ModelPlan(stable="5", new_versions=NEW_AS_SHADOW)

    canary = promote(plan, VERSIONS, "shadow")
    stable = promote(canary, VERSIONS)

    assert canary.resolve(VERSIONS).named == {"stable": "5", "canary": "6"}
    assert stable.resolve(VERSIONS).named == {"stable": "6", "previous": "5"}


@pytest.mark.parametrize(
    "changed",
    [
        roll_back(ModelPlan(stable="5", new_versions=NEW_AS_CANARY), VERSIONS),
        roll_back(
            ModelPlan(stable="6", aliases={"previous": "5"}, new_versions=NEW_AS_SHADOW), VERSIONS
        ),
        place_version(ModelPlan(stable="5", new_versions=NEW_AS_SHADOW), VERSIONS, "shadow", None),
        place_version(
            ModelPlan(stable="5", canary=Trial(version="6", share=0.1), new_versions=NEW_AS_SHADOW),
            VERSIONS,
            "canary",
            None,
        ),
    ],
)
def test_a_version_that_was_taken_out_does_not_enter_again_by_the_rule(changed: ModelPlan) -> None:
    assert changed.resolve(VERSIONS).named == {"stable": "5"}
    assert "7" in changed.resolve((*VERSIONS, "7")).named.values()


def test_the_rule_is_kept_as_it_is_if_it_would_not_bring_the_version_back() -> None:
    plan = ModelPlan(stable="6", canary=CANARY, new_versions=NEW_AS_SHADOW)

    assert roll_back(plan, VERSIONS) == ModelPlan(stable="6", new_versions=NEW_AS_SHADOW)
    plan = ModelPlan(stable="5", shadow=Trial(version="6", share=1), new_versions=NEW_AS_SHADOW)
    named = plan.model_copy(update={"aliases": {"good": "6"}})
    assert place_version(named, VERSIONS, "shadow", None).new_versions == NEW_AS_SHADOW


def test_a_version_that_entered_by_the_rule_stays_when_something_else_changes() -> None:
    plan = ModelPlan(stable="4", new_versions=NEW_AS_SHADOW)

    changed = place_version(plan, VERSIONS, "stable", "5")

    assert changed.resolve(VERSIONS).named["shadow"] == "6"


def test_differences_are_put_in_words() -> None:
    assert in_words("parts", PLAN, PLAN) == []
    assert in_words("cats", None, ModelPlan(stable="1")) == ["cats: stable none → 1"]
    assert in_words("parts", PLAN, promote(PLAN, VERSIONS)) == [
        "parts: stable 3 → 4",
        "parts: canary 4 (10 % of the requests) → none",
        "parts: previous 2 → 3",
    ]
