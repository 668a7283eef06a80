"""Whether an answer is that of the version it names."""

import json
from dataclasses import replace

import pytest

from load_tests.client.connection import Response
from load_tests.rollout.answers import Answer, Checker, parse

FIRST = Answer("a" * 64, {7: 0.8, 3: 0.1}, -9.0)
SECOND = Answer("b" * 64, {7: 0.7, 3: 0.2}, -9.0)


def response(answer: Answer, status: int = 200) -> Response:
    predictions = [{"class_id": c, "probability": p} for c, p in answer.probabilities.items()]
    body = {"model": {"digest": answer.digest}, "ood": {"energy": {"score": answer.energy}}}
    return Response(status, body=json.dumps({**body, "predictions": predictions}).encode())


def checker() -> Checker:
    return Checker({b"image": 0}, {FIRST.digest: [FIRST], SECOND.digest: [SECOND]})


def test_an_answer_of_each_version_is_right() -> None:
    checks = checker()

    checks.note(b"image", response(FIRST))
    checks.note(b"image", response(SECOND))

    assert (checks.wrong_answers, dict(checks.seen)) == (0, {FIRST.digest: 1, SECOND.digest: 1})


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (replace(FIRST, digest=SECOND.digest), "class 7 with 0.80000 instead of 0.70000"),
        (replace(FIRST, digest="c" * 64), "unknown digest"),
        (replace(FIRST, energy=-9.1), "energy -9.1000 instead of -9.0000"),
        (replace(FIRST, probabilities={7: 0.8, 4: 0.1}), "classes [7, 4] instead of [7, 3]"),
        (replace(FIRST, probabilities={7: float("nan"), 3: 0.1}), "class 7 with nan"),
        (replace(FIRST, probabilities={}), "classes [] instead"),
    ],
)
def test_an_answer_of_another_version_is_wrong(answer: Answer, said: str) -> None:
    checks = checker()

    checks.note(b"image", response(answer))

    assert checks.wrong_answers == 1
    assert said in checks.wrong[0]


def test_a_difference_within_the_tolerance_is_none() -> None:
    near = replace(FIRST, probabilities={7: 0.80005, 3: 0.1}, energy=-9.001)

    assert not FIRST.difference(near)


def test_a_rejected_image_names_its_version_too() -> None:
    rejected = replace(FIRST, probabilities={})

    assert parse(response(rejected, 422)) == rejected


@pytest.mark.parametrize("status", [503, 504])
def test_a_failed_request_is_no_answer(status: int) -> None:
    assert parse(Response(status, body=b"{}")) is None


def test_another_problem_with_422_is_no_answer() -> None:
    assert parse(Response(422, body=b'{"code": "undecodable-image"}')) is None


def test_only_the_first_wrong_answers_are_described() -> None:
    checks = checker()

    for _ in range(9):
        checks.note(b"image", response(replace(FIRST, energy=0.0)))

    assert (checks.wrong_answers, len(checks.wrong)) == (9, 5)
