"""The JSON of an inference request, decoded into declared types within a bound on memory.

`data` stays text: `elements.py` decodes it. What is left is at most `_MAX_REST` bytes, because a
parser creates several times as many bytes of objects.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tidegate.service.errors import BadRequest

Buffer = bytes | memoryview

_MAX_REST = 64 * 1024  # bytes of the JSON without the inputs' data
_MAX_OBJECTS = 256  # each input and output is one or two
_MAX_RANK = 8
_MAX_INT = 2**63 - 1
_Natural = Annotated[int, Meta(ge=0, le=_MAX_INT)]


class InputParameters(Struct):
    """The parameters of an input that matter; others are ignored, as the protocol says."""

    binary_data_size: _Natural | None = None
    shared_memory_region: str | None = None


class Input(Struct):
    """An input tensor."""

    name: str
    shape: Annotated[list[_Natural], Meta(max_length=_MAX_RANK)]
    datatype: str
    parameters: InputParameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class OutputParameters(Struct):
    """The parameters of a requested output."""

    classification: _Natural | None = None  # 0 or null: the values themselves
    binary_data: bool | None = None
    shared_memory_region: str | None = None


class RequestedOutput(Struct):
    """An output that the client wants."""

    name: str
    parameters: OutputParameters | None = None


class Parameters(Struct):
    """The parameters of a request."""

    timeout: _Natural | None = None  # microseconds; 0: the default
    priority: _Natural | None = None
    binary_data_output: bool | None = None
    top_k: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    ood_action: Literal["reject", "flag"] | None = None


class InferRequest(Struct):
    """The JSON object of an inference request. Some clients write null for what they leave out."""

    inputs: list[Input]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None


class _Data(Struct):
    data: msgspec.Raw = msgspec.Raw()


class _DataOnly(Struct):
    inputs: list[_Data]


_REQUEST = msgspec.json.Decoder(InferRequest)
_DATA_ONLY = msgspec.json.Decoder(_DataOnly)


def parse(text: Buffer) -> InferRequest:
    """Return the request. Raises BadRequest with the place of the first error."""
    try:
        if len(text) > _MAX_REST:
            _check_rest(text)
        return _REQUEST.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The JSON of the request is not as expected: {error}.") from None


def _check_rest(text: Buffer) -> None:
    if bytes(text).count(b"{") > _MAX_OBJECTS:
        raise BadRequest(f"The JSON of the request has more than {_MAX_OBJECTS} objects.")
    rest = len(text) - sum(len(memoryview(one.data)) for one in _DATA_ONLY.decode(text).inputs)
    if rest > _MAX_REST:
        raise BadRequest(
            f"The JSON of the request has {rest:,} bytes besides its data; "
            f"the limit is {_MAX_REST:,}."
        )
