"""Bets are fair if both versions answer alike, whatever the answers are."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tidegate.service.rollout.evidence import STAKES, Bets, DesignEffect, Gains, differences
from tidegate.service.rollout.groups import GROUP, Groups, ranks, weights

Values = arrays(np.float64, GROUP, elements=st.floats(0, 1))


def every_choice(canaries: int) -> NDArray[np.bool_]:
    """Return all groups with so many images of the canary, [choices, GROUP]."""
    chosen = np.array(list(combinations(range(GROUP), canaries)))
    groups = np.zeros((len(chosen), GROUP), np.bool_)
    np.put_along_axis(groups, chosen, values=True, axis=1)
    return groups


@settings(deadline=None, max_examples=30)
@given(Values, st.sampled_from([1, 2, GROUP - 1]), st.floats(0, 1), st.sampled_from([1, -1]))
def test_over_all_choices_of_versions_a_bet_wins_nothing(
    values: NDArray[np.float64], canaries: int, baseline: float, sign: int
) -> None:
    groups = every_choice(canaries)
    gains = differences(
        weights(groups),
        np.broadcast_to(values[None, :, None], (*groups.shape, 1)),
        np.array([baseline]),
        np.array([0.0]),
        sign,
    )
    wealth = np.prod(1 + STAKES * gains.shares, axis=1)

    assert np.all(gains.shares >= -1 - 1e-9)
    assert wealth.mean(axis=0) == pytest.approx(np.ones(len(STAKES)), rel=1e-9)


@pytest.mark.lengthy
@settings(deadline=None)
@given(Values, st.floats(0, 0.5))
def test_a_difference_at_the_margin_wins_nothing(
    values: NDArray[np.float64], margin: float
) -> None:
    """The canary's values are higher by the margin, and the margin is subtracted."""
    groups = every_choice(2)
    answers = values * 0.5 + margin * groups
    gains = differences(
        weights(groups), answers[:, :, None], np.zeros(1), np.array([margin]), sign=1
    )

    assert np.all(gains.shares >= -1 - 1e-9)
    assert np.prod(1 + STAKES * gains.shares, axis=1).mean(axis=0) == pytest.approx(
        np.ones(len(STAKES)), rel=1e-9
    )


@pytest.mark.parametrize("ratio", [1.0, 1.2])
def test_ranks_of_equal_versions_win_nothing(ratio: float) -> None:
    """With a ratio above 1, they lose."""
    latencies = np.random.default_rng(1).lognormal(size=GROUP)
    groups = every_choice(2)
    values = np.broadcast_to(np.log(latencies), groups.shape)
    places = ranks(groups, values, np.log(ratio))[:, :, None]
    gains = differences(weights(groups), places, np.array([0.5]), np.zeros(1), sign=1)
    wealth = np.prod(1 + STAKES * gains.shares, axis=1).mean(axis=0)

    assert np.all(wealth < 1 + 1e-9)
    assert (ratio == 1.0) == bool(np.all(wealth > 1 - 1e-9))


def test_ties_have_the_mean_rank() -> None:
    canary = np.zeros((1, GROUP), np.bool_)

    assert ranks(canary, np.ones((1, GROUP)), 0.0) == pytest.approx(np.full((1, GROUP), 0.5))
    assert ranks(canary, np.arange(GROUP, dtype=float)[None], 0.0) == pytest.approx(
        np.arange(GROUP)[None] / (GROUP - 1)
    )


@pytest.mark.parametrize("share", [0.05, 0.95])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_groups_are_complete_and_have_both_versions(at_once: int, share: float) -> None:
    rng = np.random.default_rng(1)
    canary = rng.random(1000) < share
    groups, found = Groups(1), []
    for at in range(0, 1000, at_once):
        some = canary[at : at + at_once]
        _, values = groups.add(some, np.arange(at, at + len(some), dtype=float)[:, None])
        found += values[:, :, 0].tolist()

    rows = [list(range(at, at + GROUP)) for at in range(0, 1000 - GROUP, GROUP)]
    assert found == [row for row in rows if canary[row].any() and not canary[row].all()]
    assert 0 < len(found) < len(rows)


def signal(images: int, run: int) -> NDArray[np.float64]:
    """Return values that are the same within a run, [groups, GROUP, 1]."""
    rng = np.random.default_rng(run)
    values = np.repeat(rng.standard_normal(images // run + 1), run)[:images]
    return np.asarray(values.reshape(-1, GROUP, 1))


@pytest.mark.parametrize(("run", "low", "high"), [(1, 1.0, 1.25), (4, 3.2, 4.8), (10, 7.5, 10.5)])
def test_the_design_effect_is_the_length_of_runs(run: int, low: float, high: float) -> None:
    """Runs that lie across the edge of a group count a little less."""
    effect = DesignEffect(1)
    for group in signal(400 * GROUP, run):
        effect.add(group[None])

    assert low <= effect.value[0] <= high


def test_a_level_and_a_step_are_no_runs() -> None:
    effect = DesignEffect(1)
    effect.add(np.ones((100, GROUP, 1)))
    level = effect.value[0]
    effect.add(signal(400 * GROUP, 1) + 3)

    assert level == 1.0
    assert effect.value[0] < 1.5


def test_a_run_that_goes_on_in_the_next_group_is_not_overlooked() -> None:
    """Neighbouring groups of a run of two groups do not differ."""
    effect = DesignEffect(1)
    effect.add(signal(400 * GROUP, 2 * GROUP))

    assert effect.value[0] > 0.75 * GROUP


def test_with_signals_there_is_one_design_effect_for_all_bets() -> None:
    gains = Gains(np.zeros((400, GROUP, 3)), np.ones((400, GROUP, 3)), np.zeros(3))
    bets = Bets(3, signals=2)
    bets.add(gains, np.concatenate([signal(400 * GROUP, 4), signal(400 * GROUP, 10)], axis=2))

    assert bets.design_effects.shape == (1,)
    assert 5 < bets.design_effects[0] < 8


def test_at_first_images_are_taken_for_runs() -> None:
    assert DesignEffect(2).value.tolist() == [3.0, 3.0]


def test_a_long_sequence_fades() -> None:
    effect = DesignEffect(1)
    effect.add(signal(1200 * GROUP, 10))
    for group in signal(6400 * GROUP, 1).reshape(-1, 100, GROUP, 1):
        effect.add(group)

    assert effect.value[0] < 1.5


def test_groups_that_come_one_by_one_give_the_evidence_of_all_at_once() -> None:
    """As soon as the design effect is known; it is learned before the groups are weighed."""
    gains = Gains(np.ones((64, GROUP, 1)) / 10, np.ones((64, GROUP, 1)), np.zeros(1))
    one, many = Bets(1), Bets(1)
    for bets in (one, many):
        bets.add(gains)
    at_once = one.add(gains)[-1]
    singly = [
        many.add(Gains(gains.values[i : i + 1], gains.worst[i : i + 1], gains.margins))
        for i in range(64)
    ]

    assert singly[-1][-1] == pytest.approx(at_once)
    assert one.growth() == pytest.approx(many.growth())


def test_dependent_images_count_as_fewer() -> None:
    """The same gains in runs give less evidence than shuffled ones."""
    rng = np.random.default_rng(5)
    values = np.repeat(rng.choice([-1.0, 1.0], 800, p=[0.4, 0.6]), 8)
    in_runs, shuffled = Bets(1), Bets(1)
    logs = [
        bets.add(Gains(order.reshape(-1, GROUP, 1), np.ones((200, GROUP, 1)), np.zeros(1)))[-1, 0]
        for bets, order in ((in_runs, values), (shuffled, rng.permutation(values)))
    ]

    assert 0 < logs[0] < logs[1] / 4
