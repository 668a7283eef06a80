"""Between messages and what the protocol means, which is the same as over REST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from google.protobuf.message import DecodeError

from tidegate.service.api.dialects.v2.infer_json import InferRequest
from tidegate.service.api.dialects.v2.request import (
    Infer,
    InputSpec,
    check_input,
    from_binary,
    infer,
)
from tidegate.service.api.dialects.v2.response import Tensor
from tidegate.service.api.dialects.v2.rpc.messages import MESSAGES
from tidegate.service.api.dialects.v2.rpc.wire_size import check_size
from tidegate.service.errors import BadRequest


def parse_message(name: str, content: bytes) -> Any:
    """Return a message. Raises BadRequest."""
    if name == "ModelInferRequest":
        check_size(content)
    try:
        return MESSAGES[name].FromString(content)
    except DecodeError:
        raise BadRequest(f"The request is not a {name}.") from None


def to_infer(message: Any, spec: InputSpec) -> Infer:
    """Return the images and options of a ModelInferRequest. Raises BadRequest."""
    request = _request(message)
    tensor, count = check_input(request, spec)
    raw, elements = message.raw_input_contents, message.inputs[0].contents.bytes_contents
    if len(raw) > 1 or (raw and elements):
        raise BadRequest(f"Input {tensor.name!r} must have its data once.")
    if raw:
        images, pixels = from_binary(memoryview(raw[0]), count, spec)
    elif spec.model.takes_pixels:
        raise BadRequest(f"Input {tensor.name!r} must be in raw_input_contents.")
    elif len(elements) != count:
        raise BadRequest(
            f"Input {tensor.name!r} has {len(elements):,} elements, but its shape says {count:,}."
        )
    else:
        images, pixels = list(elements), ()
    return infer(request, spec.model, images, pixels)


def to_response(asked: Infer, model: str, version: str, outputs: Sequence[Tensor]) -> bytes:
    """Return a serialized ModelInferResponse."""
    response = MESSAGES["ModelInferResponse"](
        model_name=model,
        model_version=version,
        id=asked.id or "",
        outputs=[
            {"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in outputs
        ],
        raw_output_contents=[one.to_bytes() for one in outputs],
    )
    serialized: bytes = response.SerializeToString()
    return serialized


def _request(message: Any) -> InferRequest:
    """Return the parts of a request that its JSON would have, checked in the same way."""
    described = {
        "id": message.id,
        "parameters": _parameters(message.parameters),
        "inputs": [
            {
                "name": one.name,
                "datatype": one.datatype,
                "shape": list(one.shape),
                "parameters": _parameters(one.parameters),
            }
            for one in message.inputs
        ],
        "outputs": [
            {"name": one.name, "parameters": _parameters(one.parameters)} for one in message.outputs
        ],
    }
    try:
        return msgspec.convert(described, InferRequest)
    except msgspec.ValidationError as error:
        raise BadRequest(f"The request is not as expected: {error}.") from None


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in parameters.items():
        chosen = value.WhichOneof("parameter_choice")
        if chosen is not None:
            found[name] = getattr(value, chosen)
    return found
