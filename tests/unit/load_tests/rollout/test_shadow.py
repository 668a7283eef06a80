"""How live traffic with and without a shadow is compared."""

from collections.abc import Sequence

import pytest

from load_tests.client.connection import Response
from load_tests.generator.loops import Outcome
from load_tests.rollout.shadow import REFUSED, Arm, of_goodput, of_latency, order, parse
from load_tests.scenarios.findings import Finding
from tests.unit.load_tests.rollout.outcomes import answered, failed
from tidegate.service import following


def arm(outcomes: Sequence[Outcome], seconds: float = 1.0, compared: int = 0) -> Arm:
    made = Arm()
    made.add(outcomes, seconds, {"compared": compared, "dropped": 1, "failed": 0})
    return made


def missed(findings: Sequence[Finding]) -> list[str]:
    return [finding.quantity for finding in findings if finding.met is False]


def test_the_windows_alternate_and_each_pair_begins_with_the_other() -> None:
    assert order(3) == [False, True, True, False, False, True]


def test_a_refusal_is_noticed_as_the_service_logs_it() -> None:
    assert following._REFUSED.startswith(REFUSED)


def test_equal_traffic_meets_the_limits() -> None:
    assert not missed(of_latency("50 %", arm([answered(0.0)]), arm([answered(0.0)])))


def test_a_p99_that_is_more_than_5_percent_longer_exceeds_the_limit() -> None:
    without = arm([answered(0.0, 0.100)])

    assert not missed(of_latency("50 %", without, arm([answered(0.0, 0.104)])))
    assert missed(of_latency("50 %", without, arm([answered(0.0, 0.106)]))) == ["50 %: p99, ratio"]


def test_a_request_that_fails_only_with_a_shadow_exceeds_the_limit() -> None:
    with_one = arm([answered(0.0), failed(0.0, status=503)])

    assert missed(of_latency("50 %", arm([answered(0.0)]), with_one)) == [
        "50 %: failed, more than without"
    ]


def test_goodput_counts_what_is_answered_in_time() -> None:
    outcomes = [answered(0.0, 0.2), answered(0.0, 0.3), failed(0.0, status=503)]

    assert arm(outcomes, seconds=2.0).goodput(deadline_s=0.25) == pytest.approx(0.5)


def test_a_goodput_that_is_more_than_2_percent_lower_exceeds_the_limit() -> None:
    without = arm([answered(0.0)] * 100)

    assert not missed(of_goodput("2 ×", without, arm([answered(0.0)] * 98), 0.25))
    assert missed(of_goodput("2 ×", without, arm([answered(0.0)] * 97), 0.25)) == [
        "2 ×: goodput, ratio"
    ]


def test_windows_of_one_arm_are_added() -> None:
    made = arm([answered(0.0)], 1.0, compared=3)
    made.add([answered(5.0)], 2.0, {"compared": 4, "dropped": 0, "failed": 0})

    assert (len(made.outcomes), made.seconds) == (2, 3.0)
    assert made.shadowed == {"compared": 7, "dropped": 1, "failed": 0}


def test_the_ratios_have_intervals_of_the_pairs_of_windows() -> None:
    without, with_one = Arm(), Arm()
    for slower in (1.0, 1.1, 1.2):
        without.add([answered(0.0, 0.1)] * 100, 1.0, {})
        with_one.add([answered(0.0, 0.1 * slower)] * round(100 / slower), 1.0, {})

    p99 = {one.quantity: one.value for one in of_latency("50 %", without, with_one)}
    good = {one.quantity: one.value for one in of_goodput("2 ×", without, with_one, 0.25)}

    assert p99["50 %: p99, ratio: lower end of 95 %"] == pytest.approx(1.0)
    assert p99["50 %: p99, ratio: upper end of 95 %"] == pytest.approx(1.2)
    low, high = (good[f"2 ×: goodput, ratio: {end} end of 95 %"] for end in ("lower", "upper"))
    assert low is not None
    assert high is not None
    assert low < good["2 ×: goodput, ratio"] < high  # type: ignore[operator]  # it was measured


def test_the_counters_of_all_models_are_added() -> None:
    text = (
        b"# TYPE tidegate_shadow_images_total counter\n"
        b'tidegate_shadow_images_total{model="a",outcome="compared"} 12.0\n'
        b'tidegate_shadow_images_total{model="b",outcome="compared"} 3.0\n'
        b'tidegate_shadow_images_total{model="a",outcome="dropped"} 2.0\n'
        b'tidegate_reload_total{model="a",outcome="failed"} 9.0\n'
    )

    assert parse(Response(200, body=text)) == {"compared": 15, "dropped": 2, "failed": 0}
