"""Learning rates by step, and estimates of the time that is left."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.models.training.schedule import Remaining, duration, rate_at

KINDS: tuple[Literal["cosine", "one-cycle"], ...] = ("cosine", "one-cycle")


@given(st.integers(1, 2000), st.sampled_from(KINDS), st.floats(0, 1))
def test_a_rate_rises_to_its_peak_and_falls(
    steps: int, kind: Literal["cosine", "one-cycle"], warm_up: float
) -> None:
    rates = [rate_at(step, steps, kind, warm_up) for step in range(steps)]

    peak = rates.index(max(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_the_cosine_falls_as_the_formula() -> None:
    assert rate_at(0, 110, "cosine", 10 / 110) == pytest.approx(1 / 11)
    assert rate_at(10, 110, "cosine", 10 / 110) == 1
    half = 0.001 + 0.999 * (1 + math.cos(math.pi / 2)) / 2
    assert rate_at(60, 110, "cosine", 10 / 110) == pytest.approx(half)
    assert rate_at(109, 110, "cosine", 10 / 110) < 0.002


def test_one_cycle_rises_for_three_tenths_whatever_the_warm_up() -> None:
    rates = [rate_at(step, 100, "one-cycle", 0.0) for step in range(100)]

    assert rates.index(max(rates)) == 30


def test_the_time_left_is_that_of_recent_steps_and_evaluations() -> None:
    remaining = Remaining()
    assert remaining.words(10, 1) == ""

    for _ in range(3):
        remaining.step(2.0)
    remaining.evaluation(30.0)

    assert remaining.words(10, 2) == "about 80 s"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (125, "2 min"), (7800, "2 h 10 min")]
)
def test_durations_are_readable(seconds: float, words: str) -> None:
    assert duration(seconds) == words
