"""What a message may have besides its data, before protobuf creates objects of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.dialects.v2.rpc.convert import parse_message
from tidegate.service.api.dialects.v2.rpc.messages import MESSAGES
from tidegate.service.api.dialects.v2.rpc.wire_size import check_size
from tidegate.service.errors import BadRequest

REQUEST = MESSAGES["ModelInferRequest"]
MIB = 1 << 20


def test_data_does_not_count() -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1]}
    raw = REQUEST(model_name="m", inputs=[tensor], raw_input_contents=[bytes(MIB)])
    contents = {"bytes_contents": [bytes(MIB)]}
    listed = REQUEST(model_name="m", inputs=[{**tensor, "contents": contents}])

    check_size(raw.SerializeToString())
    check_size(listed.SerializeToString())


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (REQUEST(id="x" * MIB), "besides its data; the limit is 65,536"),
        (REQUEST(inputs=[{}] * 10_000), "more than 4,096 fields"),
        (REQUEST(inputs=[{"contents": {"bytes_contents": [b""] * 10_000}}]), "more than 4,096"),
        (REQUEST(inputs=[{"name": "x" * MIB}]), "besides its data"),
    ],
    ids=["id", "inputs", "elements", "name"],
)
def test_everything_else_does(message: object, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        check_size(message.SerializeToString())  # type: ignore[attr-defined]  # made at run time


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_request(content: bytes) -> None:
    try:
        message = parse_message("ModelInferRequest", content)
    except BadRequest:
        return

    assert isinstance(message, REQUEST)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_message_is_one_or_a_bad_request(at: int, value: int) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1, 1]}
    content = bytearray(
        REQUEST(
            model_name="m", id="7", inputs=[tensor], raw_input_contents=[b"x" * 300]
        ).SerializeToString()
    )
    content[at % len(content)] = value

    try:
        parse_message("ModelInferRequest", bytes(content))
    except BadRequest as error:
        assert str(error)  # noqa: PT017 - either outcome is right
