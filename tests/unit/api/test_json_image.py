"""Base64 images in JSON: what is decoded, and what the error says."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.json_image import decode_base64, image_of, is_json_object
from tidegate.service.api.uploads import ByteBudget, Reservation
from tidegate.service.errors import BadRequest, Overloaded

ROOM = 1 << 30


def reservation(room: int = ROOM) -> Reservation:
    return ByteBudget(room, room, lambda: None).reserve("client")


def image(body: bytes, room: int = ROOM) -> bytes:
    return asyncio.run(image_of(body, reservation(room)))


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


@pytest.mark.parametrize(
    ("body", "is_one"),
    [(b"{}", True), (b" \r\n\t{", True), (b" text", False), (b"", False), (b"\xff\xd8", False)],
)
def test_an_object_is_known_by_its_first_bytes(body: bytes, is_one: bool) -> None:
    assert is_json_object(body) == is_one


@given(st.binary(max_size=200))
def test_any_bytes_survive_base64(data: bytes) -> None:
    assert image(json.dumps({"image": text_of(data)}).encode()) == data


@pytest.mark.parametrize("size", [49_151, 49_152, 49_153, 200_000])
def test_long_text_is_decoded_in_steps(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)

    assert image(json.dumps({"image": text_of(data[:size])}).encode()) == data[:size]


@pytest.mark.parametrize(
    "text", ["AAEC/w==", "AAEC/w", "data:image/png;base64,AAEC/w==", r"AAEC\/w==", r"\u0041AEC/w=="]
)
def test_the_ways_in_which_clients_write_base64_are_read(text: str) -> None:
    assert image(b'{"image": "%b"}' % text.encode()) == b"\0\1\2\xff"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "truncated"),
        (b"{}", "missing required field `image`"),
        (b'{"image": 1}', r"Expected `str`, got `int` - at `\$.image`"),
        (b'{"image": "", "top_k": 3}', "unknown field `top_k`"),
        (b'{"image": ""} {', "trailing"),
        (b'{"image": "\xff"}', "UTF-8|utf-8"),
        (b'{"image": ' + b"[" * 100_000, "Expected `str`, got `array`"),
        (b'{"image": "A"}', "image is not base64"),
        (b'{"image": "not base64!"}', "image is not base64"),
        (b'{"image": "AAEC-w=="}', "image is not base64"),
        (b'{"image": "AA==AAAA"}', "image is not base64"),
        (b'{"image": "\\u00e4"}', "image is not base64"),
        (b'{"image": "%b"}' % (b"AA==" * 30_000), "padding before its end"),
    ],
)
def test_the_error_names_the_place_and_the_reason(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        image(body)


def test_the_memory_for_the_text_is_reserved() -> None:
    body = json.dumps({"image": text_of(bytes(3000))}).encode()

    with pytest.raises(Overloaded):
        image(body, room=2 * len(body))


@pytest.mark.parametrize("value", [b"0,", b"{},", b"[],", b'"",'])
def test_a_document_of_many_values_takes_no_memory(value: bytes) -> None:
    body = b'{"x": [' + value * 300_000 + b'0], "image": ""}'
    tracemalloc.start()

    with pytest.raises(BadRequest):
        image(body)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_empty_text_is_no_bytes() -> None:
    assert asyncio.run(decode_base64("", "image")) == b""
