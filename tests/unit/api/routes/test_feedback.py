from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.routes.feedback import MAX_BYTES, parse
from tidegate.service.errors import BadRequest


def test_feedback_is_an_id_and_a_class() -> None:
    feedback = parse(b'{"request_id": "r.0", "class_id": 5, "note": "ignored"}')

    assert (feedback.request_id, feedback.class_id) == ("r.0", 5)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[" * MAX_BYTES, "JSON"),
        (b'{"a":' * (MAX_BYTES // 5), "JSON"),
        (b'{"request_id": "r", "class_id": NaN}', "NaN"),
        (b'{"request_id": "r", "class_id": -Infinity}', "Infinity"),
        (b'{"request_id": "r", "class_id": 1e999}', "class_id"),
        (b'{"request_id": "r", "class_id": 1, "class_id": 2}', "repeats"),
        (b'{"request_id": "r", "class_id": true}', "class_id"),
        (b'{"request_id": "r", "class_id": "1"}', "class_id"),
        (b'{"request_id": "r", "class_id": -1}', "class_id"),
        (b'{"request_id": "r"}', "class_id"),
        (b'{"request_id": "", "class_id": 1}', "request_id"),
        (b'{"request_id": "a b", "class_id": 1}', "request_id"),
        (b'{"request_id": "\\ud800", "class_id": 1}', "request_id"),
        (b'{"request_id": "r\\n", "class_id": 1}', "request_id"),
        (b'{"request_id": "' + b"r" * 161 + b'", "class_id": 1}', "request_id"),
        (b'{"request_id": 5, "class_id": 1}', "request_id"),
    ],
)
def test_anything_else_is_a_bad_request(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why) as refusal:
        parse(body)

    assert len(str(refusal.value)) < 200


def test_a_huge_number_is_a_number() -> None:
    digits = "9" * 3000

    assert parse(f'{{"request_id": "r", "class_id": {digits}}}'.encode()).class_id == int(digits)


@given(st.binary(max_size=200))
def test_any_bytes_are_feedback_or_a_bad_request(body: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parse(body)
