"""From bodies to images: the four forms, and what is rejected about each."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.dialects.v2.model import ModelName
from tidegate.service.api.dialects.v2.request import (
    Infer,
    InputSpec,
    header_length,
    parse_infer,
)
from tidegate.service.api.uploads import ByteBudget, Reservation
from tidegate.service.errors import BadRequest, Overloaded
from tidegate.service.types import Priority

H, W = 2, 3
IMAGES = InputSpec(ModelName("m", "m", takes_pixels=False), (H, W, 3), is_bgr=False, max_images=4)
PIXELS = InputSpec(
    ModelName("m.pixels", "m", takes_pixels=True), (H, W, 3), is_bgr=False, max_images=4
)


def parse(
    body: bytes, json_bytes: int | None = None, spec: InputSpec = IMAGES, memory: int = 1 << 20
) -> Infer:
    budget = ByteBudget(memory, memory, lambda: None)
    with budget.reserve("client") as reservation:
        return asyncio.run(parse_infer(body, json_bytes, spec, reservation))


def request(
    shape: list[int],
    *,
    name: str = "image",
    datatype: str = "BYTES",
    data: Any = None,
    size: int | None = None,
    **fields: Any,
) -> bytes:
    tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if data is not None:
        tensor["data"] = data
    if size is not None:
        tensor["parameters"] = {"binary_data_size": size}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def packed(*images: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("announced", [True, False])
def test_binary_images(shape: list[int], announced: bool) -> None:
    binary = packed(b"one", b"two")
    head = request(shape, size=len(binary) if announced else None)

    asked = parse(head + binary, len(head))

    assert asked.images == [b"one", b"two"]
    assert asked.batching_priority is Priority.BULK


def test_json_images() -> None:
    asked = parse(request([1], data=[base64.b64encode(b"one").decode()], id=""))

    assert asked.images == [b"one"]
    assert (asked.id, asked.batching_priority) == ("", Priority.INTERACTIVE)
    assert [one.output.name for one in asked.outputs][:2] == ["probabilities", "class_id"]
    assert not any(one.binary for one in asked.outputs)


def test_null_is_absent() -> None:
    nothing = dict.fromkeys(("timeout", "priority", "top_k", "binary_data_output"), None)
    asked = parse(request([1], data=["AAAA"], id=None, parameters=nothing, outputs=None))

    assert (asked.id, asked.timeout_s, asked.priority, asked.top_k) == (None, None, 0, None)


def test_a_raw_image_is_answered_in_binary() -> None:
    asked = parse(b"\xff\xd8 jpeg", 0)

    assert asked.images == [b"\xff\xd8 jpeg"]
    assert all(one.binary for one in asked.outputs)


@pytest.mark.parametrize("form", ["binary", "json", "nested", "raw"])
def test_pixels(form: str) -> None:
    values = np.arange(H * W * 3, dtype=np.uint8).reshape(1, H, W, 3)
    options: dict[str, Any] = {"name": "pixels", "datatype": "UINT8"}
    if form == "raw":
        asked = parse(values.tobytes(), 0, PIXELS)
    elif form == "binary":
        head = request([1, H, W, 3], **options)
        asked = parse(head + values.tobytes(), len(head), PIXELS)
    else:
        data = values.tolist() if form == "nested" else values.ravel().tolist()
        asked = parse(request([1, H, W, 3], data=data, **options), None, PIXELS)

    assert np.array_equal(asked.pixels, values)
    assert [one.output.name for one in asked.outputs] == ["probabilities"]


def test_the_channels_of_pixels_are_those_of_the_model() -> None:
    values = np.arange(H * W * 3, dtype=np.uint8).reshape(1, H, W, 3)
    bgr = InputSpec(PIXELS.model, PIXELS.pixels_shape, is_bgr=True, max_images=4)

    [pixels] = parse(values.tobytes(), 0, bgr).pixels

    assert np.array_equal(pixels, values[0, ..., ::-1])
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize(
    ("parameters", "priority"),
    [
        ({}, Priority.INTERACTIVE),
        ({"priority": 0}, Priority.INTERACTIVE),
        ({"priority": 1}, Priority.INTERACTIVE),
        ({"priority": 2}, Priority.BULK),
    ],
)
def test_the_priority(parameters: dict[str, int], priority: Priority) -> None:
    body = request([1], data=["AAAA"], parameters=parameters)

    assert parse(body).batching_priority is priority


def test_a_timeout_is_in_microseconds() -> None:
    assert parse(request([1], data=["AAAA"], parameters={"timeout": 250_000})).timeout_s == 0.25


def test_the_form_of_each_output() -> None:
    outputs = [
        {"name": "label", "parameters": {"binary_data": False}},
        {"name": "probabilities", "parameters": {"classification": 3}},
    ]
    body = request([1], data=["AAAA"], outputs=outputs, parameters={"binary_data_output": True})

    first, second = parse(body).outputs

    assert (first.output.name, first.binary, first.classification) == ("label", False, 0)
    assert (second.output.name, second.binary, second.classification) == ("probabilities", True, 3)


ONE = packed(b"one")
SHM = {"shared_memory_region": "r"}
BAD = {
    "no input": (b'{"inputs": []}', None, "expected 1 inputs but got 0"),
    "name": (request([1], name="x", data=["AAAA"]), None, "unexpected inference input 'x'"),
    "datatype": (
        request([1], datatype="FP32", data=[1]),
        None,
        "data-type is 'FP32', but model 'm' expects 'BYTES'",
    ),
    "rank": (request([1, 1, 1], data=["AAAA"]), None, r"Expected \[-1,1\], got \[1,1,1\]"),
    "no dimension": (request([], data=["AAAA"]), None, r"got \[\]"),
    "no image": (request([0, 1], data=[]), None, r"got \[0,1\]"),
    "columns": (request([1, 2], data=["AAAA"]), None, r"got \[1,2\]"),
    "too many": (request([5], data=["AAAA"] * 5), None, "batch-size must be <= 4"),
    "huge": (request([2**62], data=[]), None, "batch-size must be <= 4"),
    "no data": (request([1]), None, "has no data"),
    "count": (request([2], data=["AAAA"]), None, "has 1 elements, but its shape says 2"),
    "output": (
        request([1], data=["AAAA"], outputs=[{"name": "logits"}]),
        None,
        "unexpected inference output 'logits'",
    ),
    "output twice": (
        request([1], data=["AAAA"], outputs=[{"name": "label"}] * 2),
        None,
        "more than once",
    ),
    "output in shared memory": (
        request([1], data=["AAAA"], outputs=[{"name": "label", "parameters": SHM}]),
        None,
        "shared memory is not supported",
    ),
    "size": (request([1], size=99) + ONE, len(request([1], size=99)), "is 99, but 7 bytes follow"),
    "both": (
        request([1], data=["AAAA"]) + ONE,
        len(request([1], data=["AAAA"])),
        "both data and binary",
    ),
    "trailing": (request([1]) + ONE + b"x", len(request([1])), "1 bytes follow the last"),
    "header": (b"{}", 3, "is 3, but the body has 2 bytes"),
    "an image without the header": (b"\xff\xd8\xff", None, "JSON"),
}


@pytest.mark.parametrize(("body", "json_bytes", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_says_what_is_wrong(
    body: bytes, json_bytes: int | None, message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        parse(body, json_bytes)


@pytest.mark.parametrize(
    ("shape", "datatype", "message"),
    [
        ([1, H, W, 3], "FP32", "data-type is 'FP32', but model 'm.pixels' expects 'UINT8'"),
        ([1, H + 1, W, 3], "UINT8", r"Expected \[-1,2,3,3\], got \[1,3,3,3\]"),
        ([H, W, 3], "UINT8", r"got \[2,3,3\]"),
        ([18], "UINT8", r"got \[18\]"),
        ([2, H, W, 3], "UINT8", "has 18 bytes, but its shape and datatype say 36"),
    ],
)
def test_pixels_of_another_shape_are_rejected(
    shape: list[int], datatype: str, message: str
) -> None:
    head = request(shape, name="pixels", datatype=datatype)

    with pytest.raises(BadRequest, match=message):
        parse(head + bytes(18), len(head), PIXELS)


def test_the_memory_of_the_images_counts() -> None:
    body = request([1], data=["A" * 4000])

    with pytest.raises(Overloaded):
        parse(body, memory=2 * len(body))


def big(form: str) -> tuple[bytes, int | None, InputSpec]:
    """Return a body of some megabytes in one of its forms."""
    if form == "binary":
        head = request([4])
        return head + packed(*[bytes(1 << 20)] * 4), len(head), IMAGES
    if form == "json":
        return request([4], data=[base64.b64encode(bytes(1 << 20)).decode()] * 4), None, IMAGES
    if form == "one image":
        return request([1], data=[base64.b64encode(bytes(4 << 20)).decode()]), None, IMAGES
    large = InputSpec(PIXELS.model, (500, 600, 3), is_bgr=False, max_images=4)
    numbers = "7," * (4 * 500 * 600 * 3)
    tensor = request([4, 500, 600, 3], name="pixels", datatype="UINT8", data=[])
    return tensor.replace(b"[]", f"[{numbers[:-1]}]".encode()), None, large


@pytest.mark.parametrize("form", ["binary", "json", "one image", "pixels"])
def test_no_more_memory_is_used_than_was_reserved(form: str) -> None:
    body, json_bytes, spec = big(form)
    budget = ByteBudget(1 << 30, 1 << 30, lambda: None)

    async def parse_it(reservation: Reservation) -> None:
        """Return nothing: asyncio.run makes a text of the result."""
        await parse_infer(body, json_bytes, spec, reservation)

    with budget.reserve("client") as reservation:
        tracemalloc.start()
        asyncio.run(parse_it(reservation))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        reserved = budget.used

    assert reserved <= 4 * len(body)
    assert len(body) + peak <= reserved + 100_000


@pytest.mark.parametrize("values", [[b"1", b"1"], [b"-1"], [b""], [b"1" * 30], [b"1.0"]])
def test_the_header_is_one_whole_number(values: list[bytes]) -> None:
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        header_length(values)


@given(st.binary(max_size=200) | st.just(request([1])), st.binary(max_size=60), st.integers(0, 250))
def test_any_body_is_images_or_a_bad_request(head: bytes, binary: bytes, json_bytes: int) -> None:
    for spec in (IMAGES, PIXELS):
        try:
            asked = parse(head + binary, json_bytes, spec)
        except BadRequest:
            continue

        assert 1 <= asked.count <= spec.max_images
