"""Seeds are valid, mutants are reproducible, and the oracles detect wrong answers."""

import asyncio
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from load_tests.client.connection import Response
from load_tests.client.requests import Target
from load_tests.fuzz import formats
from load_tests.fuzz.conversation import converse
from load_tests.fuzz.failures import Failures
from load_tests.fuzz.fields import fields
from load_tests.fuzz.http_mutators import mutate_http
from load_tests.fuzz.http_seeds import http_seeds
from load_tests.fuzz.mutants import mutant
from load_tests.fuzz.mutators import MUTATORS, mutate, repair_checksums
from load_tests.fuzz.oracles import Violation, judge, judge_same
from load_tests.fuzz.seeds import good_image, image_seeds
from tests.unit.load_tests.fakes import FakeServer, listening, response

BROKEN_ON_PURPOSE = {"png-exif-text-corrupt", *(f"gif-wide-frame-{n}" for n in (1, 2, 3))}
IDENTITY = "4bf92f3577b34da6a3ce929d0e0e4736"
GOOD: dict[str, Any] = {
    "request_id": IDENTITY,
    "decision": "accept",
    "predictions": [{"class_id": 7, "label": "x", "probability": 0.9}],
}


def _answer(status: int, body: dict[str, Any], *headers: tuple[bytes, bytes]) -> Response:
    media = b"application/json" if status < 400 else b"application/problem+json"
    usual = [(b"content-type", media), (b"x-request-id", IDENTITY.encode("ascii"))]
    return Response(status, [*usual, *headers], json.dumps(body).encode("ascii"))


def _problem(answered: int, code: str, *headers: tuple[bytes, bytes], **more: Any) -> Response:
    document = {
        "type": f"urn:tidegate:problem:{code}",
        "status": answered,
        "code": code,
        "request_id": IDENTITY,
    }
    return _answer(answered, document | more, *headers)


def _generator(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - no secret


def _rules(found: list[Violation]) -> list[str]:
    return [violation.rule for violation in found]


@pytest.mark.parametrize("name", [seed.name for seed in image_seeds()])
def test_a_seed_is_an_image_that_pillow_reads(name: str) -> None:
    data = next(seed.data for seed in image_seeds() if seed.name == name)

    if name in BROKEN_ON_PURPOSE:
        return
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert min(image.size) > 50


def test_names_of_seeds_are_unique() -> None:
    names = [seed.name for seed in image_seeds()] + [seed.name for seed in http_seeds()]

    assert len(set(names)) == len(names)


def test_the_smallest_files_declare_what_they_should() -> None:
    lossless = Image.open(io.BytesIO(formats.webp_lossless(5000, 4000)))
    arithmetic = Image.open(io.BytesIO(formats.arithmetic_jpeg(5000, 64)))

    assert (lossless.size, len(formats.webp_lossless(5000, 4000))) == ((5000, 4000), 40)
    assert arithmetic.size == (5000, 5000)
    assert len(formats.gif((1, 1), (65535, 65535), 2)) == 43


def test_a_mutant_is_the_same_for_the_same_seed_and_number() -> None:
    first = [mutant(3, number, 0.2).request for number in range(200)]

    assert first == [mutant(3, number, 0.2).request for number in range(200)]
    assert first != [mutant(4, number, 0.2).request for number in range(200)]
    assert len(set(first)) > 190


@pytest.mark.parametrize("change", dict.fromkeys(MUTATORS))
def test_every_mutator_changes_some_image(change: Any) -> None:
    data = image_seeds()[0].data

    def changed(seed: int) -> bytes:
        copy = bytearray(data)
        change(_generator(seed), copy, good_image())
        return bytes(copy)

    assert any(changed(seed) != data for seed in range(20))


def test_damaged_http_differs_from_its_seed() -> None:
    seeds = http_seeds()
    pairs = [
        (seed.data, mutate_http(_generator(n), seed.data, seeds[0].data)[0])
        for n, seed in enumerate(seeds)
    ]

    assert sum(before != after for before, after in pairs) > len(seeds) * 0.6


def test_fields_are_found_in_every_format() -> None:
    without = [s.name for s in image_seeds() if not fields(s.data)]

    assert without == []


def test_repaired_checksums_are_read_by_pillow() -> None:
    data = bytearray(formats.png((60, 60)))
    data[20:24] = (50).to_bytes(4)  # the height
    repair_checksums(data)

    assert Image.open(io.BytesIO(bytes(data))).size == (60, 50)


def test_a_mutant_of_a_tiny_image_raises_nothing() -> None:
    assert [mutate(_generator(n), b"\xff\xd8", b"")[0] for n in range(50)]


def test_documented_answers_violate_no_rule() -> None:
    overloaded = _problem(503, "overloaded", (b"retry-after", b"2"))

    assert judge(_answer(200, GOOD)) == []
    assert judge(_problem(422, "undecodable-image")) == []
    assert judge(_problem(504, "deadline-missed")) == []
    assert judge(overloaded) == []


@pytest.mark.parametrize(
    ("lie", "rule"),
    [
        (_problem(500, "internal-error"), "5xx"),
        (_problem(503, "overloaded"), "5xx"),  # without a Retry-After
        (_problem(504, "engine-failed"), "5xx"),
        (_problem(422, "undecodable-image", status=400), "malformed"),
        (_problem(422, "undecodable-image", request_id="another"), "malformed"),
        (_problem(422, "undecodable-image", type="about:blank"), "malformed"),
        (_answer(200, GOOD | {"request_id": ""}), "malformed"),
        (_answer(200, GOOD | {"decision": "perhaps"}), "malformed"),
        (_answer(200, {"request_id": IDENTITY, "results": [{"status": 500}]}), "5xx"),
        (Response(400, [(b"content-type", b"text/plain")], b"Invalid HTTP request"), "malformed"),
        (Response(200, [(b"content-type", b"application/json")], b"{"), "malformed"),
    ],
)
def test_a_wrong_answer_is_detected(lie: Response, rule: str) -> None:
    assert rule in _rules(judge(lie))


def test_the_valid_image_must_keep_its_answer() -> None:
    first = _answer(200, GOOD)
    other = GOOD | {"predictions": [{"class_id": 8, "label": "y", "probability": 0.9}]}
    refused = _problem(503, "overloaded", (b"retry-after", b"1"))

    assert judge_same(first, first) == judge_same(first, refused) == []
    assert _rules(judge_same(first, _answer(200, other))) == ["good-image"]
    assert _rules(judge_same(first, _problem(422, "undecodable-image"))) == ["good-image"]


def test_a_conversation_collects_every_answer_of_a_fake_server() -> None:
    async def talk() -> list[int]:
        server = FakeServer([response(b"{}"), response(b"no", 422)])
        async with listening(server) as port:
            request = b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
            seen = await converse(Target("127.0.0.1", port, "/"), request * 2, 30, expected=2)
            return [answer.status for answer in seen.answers]

    assert asyncio.run(talk()) == [200, 422]


def test_a_failing_input_is_saved_with_the_violated_rule(tmp_path: Path) -> None:
    failures = Failures(tmp_path)
    failures.add(Violation("5xx", "500 with code x"), b"POST / HTTP/1.1\r\n\r\n", "mutant 3")

    (kept,) = tmp_path.glob("*.bin")
    assert kept.read_bytes() == b"POST / HTTP/1.1\r\n\r\n"
    facts = json.loads(kept.with_suffix(".json").read_text())
    assert (facts["rule"], facts["origin"]) == ("5xx", "mutant 3")
    assert str(kept) in facts["repeat"]
