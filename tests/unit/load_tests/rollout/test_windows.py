"""Which requests belong to a window, and what is counted there."""

import pytest

from load_tests.rollout.windows import Tally, Window, tally
from tests.unit.load_tests.rollout.outcomes import answered, failed, rejected


@pytest.mark.parametrize(
    ("at_s", "latency_s", "inside"),
    [
        (9.0, 0.5, False),  # answered before the window
        (9.0, 1.5, True),  # in flight when it begins
        (10.5, 0.1, True),
        (11.9, 9.0, True),  # answered after it
        (12.0, 0.1, False),
    ],
)
def test_a_request_belongs_to_a_window_if_it_was_in_flight_there(
    at_s: float, latency_s: float, inside: bool
) -> None:
    assert Window(10.0, 12.0).has(answered(at_s, latency_s)) == inside


def test_a_request_in_two_windows_counts_once() -> None:
    windows = [Window(0.0, 1.0), Window(1.0, 2.0)]

    assert tally([answered(0.9, 0.2)], windows).requests == 1


def test_what_is_not_answered_is_counted_by_status_or_error_and_has_no_latency() -> None:
    outcomes = [
        answered(1.0, 0.010),
        rejected(1.1, 0.020),
        failed(1.2, status=504),
        failed(1.3, status=504),
        failed(1.4, error="disconnected"),
    ]

    assert tally(outcomes, [Window(0.0, 2.0)]) == Tally(
        requests=5,
        failures={"504": 2, "disconnected": 1},
        p50_ms=10.0,
        p99_ms=20.0,
    )


def test_the_windows_around_one_have_its_length() -> None:
    window = Window(3.0, 5.5)

    assert (window.before(), window.after()) == (Window(0.5, 3.0), Window(5.5, 8.0))
