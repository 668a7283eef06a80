"""How a run with reloads is judged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from load_tests.generator.loops import Outcome
from load_tests.generator.run import Load, Run
from load_tests.generator.statistics import Spent, summarise
from load_tests.rollout.answers import Answer, Checker
from load_tests.rollout.models_folder import Resources
from load_tests.rollout.reloads import Measured, Reload, measured, of_resources
from load_tests.rollout.windows import Window
from load_tests.scenarios.findings import Finding
from tests.unit.load_tests.rollout.outcomes import answered, failed

SOUND = Resources(resident_mb=300.0, threads=12, descriptors=20)
RELOADS = [
    # The controls are 96 to 100 and 105 to 106, and 157 to 160 and 164 to 165.
    Reload("2", Window(100.0, 104.0), Window(104.0, 105.0), SOUND),
    Reload("1", Window(160.0, 163.0), Window(163.0, 164.0), SOUND),
]
SEEN = Checker(
    {b"image": 0},
    {"a": [Answer("a", {1: 0.9}, -5.0)], "b": [Answer("b", {1: 0.8}, -5.0)]},
    Counter(a=3, b=2),
)
ORDINARY = [answered(101.0), answered(161.0), answered(98.0), answered(158.0)]


def judged(
    outcomes: Sequence[Outcome] = ORDINARY,
    reloads: Sequence[Reload] = RELOADS,
    checker: Checker = SEEN,
) -> Measured:
    run = Run(Load(1.0, rate=1.0), list(outcomes), summarise(outcomes, Spent(1.0, 0.0, 1), None))
    return measured(run, reloads, checker)


def missed(findings: Sequence[Finding]) -> list[str]:
    return [finding.quantity for finding in findings if finding.met is False]


def test_an_ordinary_run_meets_every_limit() -> None:
    assert not missed(judged().findings)


def test_the_same_versions_answer_in_the_control_windows_for_as_long() -> None:
    sent_s = (95.0, 96.5, 101.0, 104.5, 105.5, 106.5)
    found = judged([answered(at_s, 0.1 * number) for number, at_s in enumerate(sent_s)])

    assert (found.inside.requests, found.control.requests) == (2, 2)
    assert found.inside.p99_ms == pytest.approx(300.0)
    assert found.control.p99_ms == pytest.approx(400.0)


def test_a_request_that_fails_only_in_a_reload_window_exceeds_the_limit() -> None:
    found = judged([*ORDINARY, failed(102.0, status=503)])

    assert missed(found.findings) == ["failed in reload windows, more than in control"]


def test_as_many_failures_in_the_control_windows_are_allowed() -> None:
    found = judged([*ORDINARY, failed(102.0, status=503), failed(99.0, status=504)])

    assert not missed(found.findings)


def test_a_p99_that_is_more_than_1_3_times_the_controls_exceeds_the_limit() -> None:
    slow, control = answered(101.0, 0.131), answered(98.0, 0.1)

    assert missed(judged([slow, control]).findings) == ["p99, ratio"]
    assert not missed(judged([replace(slow, latency_s=0.129), control]).findings)


def test_a_run_without_answers_in_the_control_windows_proves_nothing() -> None:
    assert missed(judged([answered(101.0)]).findings) == ["p99, ratio"]


def test_a_run_without_a_reload_proves_nothing() -> None:
    assert "reloads" in missed(judged(reloads=[]).findings)


def test_a_wrong_answer_exceeds_the_limit() -> None:
    found = judged(checker=replace(SEEN, wrong_answers=1))

    assert missed(found.findings) == ["answers that are not their digest's"]


def test_answers_of_one_version_prove_nothing() -> None:
    found = judged(checker=replace(SEEN, seen=Counter(a=5)))

    assert missed(found.findings) == ["versions that answered"]


def test_versions_that_answer_alike_prove_nothing() -> None:
    alike = {"a": [Answer("a", {1: 0.9}, -5.0)], "b": [Answer("b", {1: 0.9}, -5.0)]}
    found = judged(checker=replace(SEEN, known=alike))

    assert missed(found.findings) == ["images that tell the versions apart"]


def after(*found: Resources) -> list[Reload]:
    """Return a reload for each, of versions 2 and 1 in turn."""
    loading, unloading = Window(0.0, 1.0), Window(1.0, 2.0)
    return [Reload("21"[n % 2], loading, unloading, one) for n, one in enumerate(found)]


@pytest.mark.parametrize(
    ("last", "limit"),
    [
        (replace(SOUND, resident_mb=314.0), []),
        (replace(SOUND, resident_mb=316.0), ["memory afterwards, to the same version's"]),
        (replace(SOUND, threads=13), ["threads afterwards, at most"]),
        (replace(SOUND, descriptors=21), ["descriptors afterwards, at most"]),
    ],
)
def test_growth_after_the_fifth_reload_exceeds_the_limit(last: Resources, limit: list[str]) -> None:
    assert missed(of_resources(after(*[SOUND] * 5, SOUND, last, SOUND))) == limit


def test_one_reload_that_leaves_more_memory_is_not_growth() -> None:
    grown = replace(SOUND, resident_mb=400.0)

    assert not missed(of_resources(after(*[SOUND] * 7, grown, *[SOUND] * 4)))


def test_growth_before_the_fifth_reload_is_allowed() -> None:
    grown = replace(SOUND, resident_mb=400.0, threads=14, descriptors=22)

    assert not missed(of_resources(after(SOUND, SOUND, SOUND, grown, grown, grown)))
    assert not missed(of_resources(after(SOUND, grown)))


def test_memory_is_compared_with_that_of_the_same_version() -> None:
    small, large = SOUND, replace(SOUND, resident_mb=400.0)

    assert not missed(of_resources(after(*[small, large] * 4)))
    assert missed(of_resources(after(*[small, large] * 3, large, large)))
