from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from tidegate.service.api.dialects.v2.infer_json import parse
from tidegate.service.errors import BadRequest

INPUT = {"name": "image", "shape": [1], "datatype": "BYTES"}


def text(**fields: Any) -> bytes:
    return json.dumps({"inputs": [INPUT], **fields}).encode()


def test_unknown_parameters_are_ignored() -> None:
    request = parse(text(id="7", parameters={"sequence_id": 3, "top_k": 2}, model="x"))

    assert request.parameters is not None
    assert (request.id, request.parameters.top_k) == ("7", 2)


def test_null_is_absent() -> None:
    tensor = {**INPUT, "parameters": None, "data": ["AAAA"]}
    outputs = [{"name": "label", "parameters": None}]
    nothing = dict.fromkeys(
        ("timeout", "priority", "top_k", "ood_action", "binary_data_output"), None
    )

    first = parse(text(id=None, parameters=None, outputs=None, inputs=[tensor]))
    second = parse(text(parameters=nothing, outputs=outputs))

    assert (first.id, first.parameters, first.outputs) == (None, None, None)
    assert second.outputs is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"inputs": 1}',
        b'{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [NaN]}]}',
        text(id=7),
        text(parameters={"top_k": 0}),
        text(parameters={"timeout": -1}),
        text(parameters={"timeout": 2**64}),
        text(parameters={"ood_action": "explode"}),
        text(outputs=[{}]),
        text(inputs=[{**INPUT, "shape": [-1]}]),
        text(inputs=[{**INPUT, "shape": [1.5]}]),
        text(inputs=[{**INPUT, "shape": [1] * 9}]),
        b"[" * 100_000,
        b'{"inputs":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xff\xfe",
        b'{"inputs": [{"name": "\xff"}]}',
    ],
)
def test_other_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest):
        parse(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"inputs":[' + b"{}," * 300_000 + b"{}]}", "more than 256 objects"),
        (text(id="x" * 100_000), r"100,\d{3} bytes besides its data"),
        (text(parameters={"other": [0] * 50_000}), "besides its data"),
    ],
)
def test_json_that_would_take_much_memory_is_rejected(body: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(BadRequest, match=message):
        parse(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 3 * len(body)


def test_data_is_not_decoded() -> None:
    body = text(inputs=[{**INPUT, "data": ["A" * 1_000_000]}])

    assert len(memoryview(parse(body).inputs[0].data)) == 1_000_004
