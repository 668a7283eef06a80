from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.batching.decode_times import DecodeCost, DecodeTimes, FadingMedian

PHOTO = DecodeCost("JPEG", 0.004)
SCAN = DecodeCost("PNG", 0.5)
MARGIN = 1.25


def learned(*observed: tuple[DecodeCost, float, float]) -> DecodeTimes:
    times = DecodeTimes()
    for cost, seconds, now in observed:
        times.observe(cost, seconds, now)
    return times


def test_before_any_decode_the_header_s_estimate_is_used() -> None:
    times = DecodeTimes()

    assert times.typical_s(PHOTO, 0.0) == PHOTO.seconds
    assert times.predict_s(PHOTO, 0.0) == pytest.approx(PHOTO.seconds * MARGIN)


def test_a_slower_machine_is_learned_for_every_kind() -> None:
    times = learned(*((PHOTO, 3 * PHOTO.seconds, 0.0) for _ in range(5)))

    assert times.typical_s(PHOTO, 1.0) == pytest.approx(3 * PHOTO.seconds)
    assert times.typical_s(SCAN, 1.0) == pytest.approx(3 * SCAN.seconds)


def test_slow_large_images_do_not_change_the_prediction_for_small_ones() -> None:
    small = [(PHOTO, PHOTO.seconds, 0.0) for _ in range(10)]
    large = [(SCAN, 8 * SCAN.seconds, 0.0) for _ in range(64)]

    assert learned(*small, *large).typical_s(PHOTO, 1.0) == pytest.approx(PHOTO.seconds)


def test_fewer_than_half_of_the_images_of_a_kind_cannot_change_the_prediction() -> None:
    usual = [(PHOTO, PHOTO.seconds, 0.0) for _ in range(16)]
    hostile = [(PHOTO, 1000.0, 0.0) for _ in range(15)]

    assert learned(*hostile, *usual).typical_s(PHOTO, 1.0) == pytest.approx(PHOTO.seconds)


def test_a_prediction_stays_within_bounds_and_old_times_expire() -> None:
    times = learned(*((PHOTO, 1000.0, 0.0) for _ in range(64)))

    assert times.typical_s(PHOTO, 1.0) == pytest.approx(8 * PHOTO.seconds)
    assert times.typical_s(PHOTO, 60.0) == PHOTO.seconds


def test_an_image_of_unknown_cost_is_predicted_to_cost_nothing() -> None:
    times = learned((DecodeCost(), 1.0, 0.0))

    assert times.predict_s(DecodeCost(), 0.0) == 0.0
    assert times.typical_s(PHOTO, 0.0) == PHOTO.seconds


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 20)), max_size=200))
def test_the_fading_median_is_the_median_of_the_last_window(
    steps: list[tuple[float, float]],
) -> None:
    median, now, seen = FadingMedian(), 0.0, list[tuple[float, float]]()
    for value, pause in steps:
        now += pause
        median.observe(value, now)
        seen.append((now, value))

    recent = sorted(value for at, value in seen[-64:] if at >= now - 30.0)
    assert median.value(now) == (recent[len(recent) // 2] if recent else None)
