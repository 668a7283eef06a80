"""The elements of tensors: what is not exactly one tensor is rejected, by its numbers."""

from __future__ import annotations

import asyncio
import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.dialects.v2.elements import (
    base64_elements,
    split_elements,
    uint8_elements,
)
from tidegate.service.errors import BadRequest

IMAGES = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


def packed(images: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


@given(IMAGES)
def test_binary_elements_are_read_back(images: list[bytes]) -> None:
    assert split_elements(memoryview(packed(images)), len(images), "image") == images


@given(IMAGES, st.integers(1, 200))
def test_a_truncated_tensor_is_rejected(images: list[bytes], cut: int) -> None:
    data = packed(images)

    with pytest.raises(BadRequest, match="image"):
        split_elements(memoryview(data)[: max(0, len(data) - cut)], len(images), "image")


@given(IMAGES, st.binary(min_size=1, max_size=8))
def test_bytes_after_the_last_element_are_rejected(images: list[bytes], more: bytes) -> None:
    with pytest.raises(BadRequest, match=f"^{len(more)} bytes follow the last"):
        split_elements(memoryview(packed(images) + more), len(images), "image")


@given(st.binary(max_size=60), st.integers(1, 4))
def test_any_bytes_are_elements_or_a_bad_request(data: bytes, count: int) -> None:
    try:
        elements = split_elements(memoryview(data), count, "image")
    except BadRequest:
        return

    assert packed(elements) == data


def test_the_element_that_runs_past_the_tensor_is_named() -> None:
    data = packed([b"one"]) + struct.pack("<I", 10_000) + b"two"

    with pytest.raises(BadRequest, match=r"Element 1 .* has 10,000 bytes, but only 3 follow"):
        split_elements(memoryview(data), 2, "image")


@pytest.mark.lengthy
@given(IMAGES, st.booleans(), st.booleans())
def test_base64_elements_are_read_back(images: list[bytes], nested: bool, escaped: bool) -> None:
    texts = [base64.b64encode(image).decode() for image in images]
    data = json.dumps([[text] for text in texts] if nested else texts)
    if escaped:
        data = data.replace("/", "\\/")

    assert asyncio.run(base64_elements(data.encode(), len(images), "image")) == images


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'["AAAA","AAAA"]', r"has more than 1 elements, but its shape says 1"),
        (b"[]", "has 0 elements"),
        (b"[1]", "has 0 elements"),
        (b'["AAAA", 1]', "must be base64 strings"),
        (b'["A*AA"]', "Element 0 of input 'image' is not base64"),
        (b'["\\u0041AAA"]', "is not base64"),
        ('["é"]'.encode(), "is not base64"),
    ],
)
def test_other_json_is_not_base64(data: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        asyncio.run(base64_elements(data, 1, "image"))


@pytest.mark.lengthy
@given(st.lists(st.integers(0, 255), min_size=1, max_size=50), st.booleans())
def test_numbers_are_read_back(numbers: list[int], nested: bool) -> None:
    data = json.dumps([[number] for number in numbers] if nested else numbers)

    values = asyncio.run(uint8_elements(data.encode(), len(numbers), "pixels"))

    assert values.dtype == np.uint8
    assert values.tolist() == numbers


def test_many_numbers_are_read_in_steps() -> None:
    numbers = np.random.default_rng(0).integers(0, 256, 200_000).tolist()

    values = asyncio.run(uint8_elements(json.dumps(numbers).encode(), len(numbers), "pixels"))

    assert values.tolist() == numbers


@pytest.mark.parametrize("bad", ["256", "-1", "1000", "1.0", "1e1", '"1"', "null", "[]", "true"])
def test_other_values_are_not_pixels(bad: str) -> None:
    data = f"[1,{bad},2]".encode()

    with pytest.raises(BadRequest, match="must be whole numbers from 0 to 255"):
        asyncio.run(uint8_elements(data, 3, "pixels"))


def test_another_number_of_pixels_is_rejected() -> None:
    with pytest.raises(BadRequest, match="has 2 elements, but its shape says 3"):
        asyncio.run(uint8_elements(b"[[1],[2]]", 3, "pixels"))
