"""From the body of an inference request to images and options.

The four bodies: JSON; JSON and binary tensors; one encoded image (`Inference-Header-Content-Length`
is 0); and each of them with a Content-Encoding, which is decoded before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tidegate.service.api.dialects.v2.elements import (
    base64_elements,
    split_elements,
    uint8_elements,
)
from tidegate.service.api.dialects.v2.infer_json import (
    InferRequest,
    Input,
    OutputParameters,
    Parameters,
    RequestedOutput,
    parse,
)
from tidegate.service.api.dialects.v2.model import FEATURES, OUTPUTS, ModelName, Output
from tidegate.service.api.uploads import Reservation
from tidegate.service.errors import BadRequest
from tidegate.service.types import Pixels, Priority

NO_SHARED_MEMORY = "shared memory is not supported"
_LENGTH_DIGITS = 18
_JSON_COPIES = 4  # in memory at once: the body, a text of its data, and images while decoded
_BINARY_COPIES = 2  # the body and its images
_SHOWN = 100  # characters of a client's text
_BULK_FROM = 2  # the lowest priority value that is bulk


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What the model takes."""

    model: ModelName
    pixels_shape: tuple[int, int, int]  # height, width, 3
    is_bgr: bool
    max_images: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output of the answer."""

    output: Output
    binary: bool
    classification: int = 0  # classes as "value:index:label"; 0: the values themselves


@dataclass(frozen=True, slots=True)
class Infer:
    """An inference request: either encoded images or pixels, and the options."""

    images: Sequence[bytes]
    pixels: Sequence[Pixels]
    outputs: Sequence[Wanted]
    id: str | None = None  # echoed, also if it is empty
    top_k: int | None = None  # columns of the outputs per class; None: all classes
    timeout_s: float | None = None
    priority: int = 0
    ood_action: str | None = None

    @property
    def count(self) -> int:
        """Return how many images there are."""
        return len(self.images) or len(self.pixels)

    @property
    def batching_priority(self) -> Priority:
        """Return the class of the images: 1 is interactive, 2 and above bulk."""
        bulk = self.priority >= _BULK_FROM if self.priority else self.count > 1
        return Priority.BULK if bulk else Priority.INTERACTIVE

    @property
    def wants_features(self) -> bool:
        """Return whether the answer has the features of the images."""
        return any(one.output.name == FEATURES for one in self.outputs)

    @property
    def classes(self) -> int:
        """Return how many classes the answer needs in order."""
        return max([self.top_k or 1, *(one.classification for one in self.outputs)])


def header_length(values: Sequence[bytes]) -> int | None:
    """Return the value of Inference-Header-Content-Length; None without it. Raises BadRequest."""
    if not values:
        return None
    text = values[0].decode("latin-1")
    if len(values) > 1 or not (text.isascii() and text.isdigit() and len(text) <= _LENGTH_DIGITS):
        raise BadRequest("Inference-Header-Content-Length must be one whole number.")
    return int(text)


async def parse_infer(
    body: bytes, json_bytes: int | None, spec: InputSpec, reservation: Reservation
) -> Infer:
    """Return the request in a body, whose first `json_bytes` are JSON; all of them if None.

    Raises BadRequest, or Overloaded if there is no memory for the images.
    """
    if json_bytes == 0:
        return _raw(body, spec)
    if json_bytes is not None and json_bytes > len(body):
        raise BadRequest(
            f"Inference-Header-Content-Length is {json_bytes:,}, but the body has {len(body):,} "
            "bytes."
        )
    view = memoryview(body)
    text = body if json_bytes is None else view[:json_bytes]
    binary = view[len(text) :]
    reservation.grow_to(_JSON_COPIES * len(text) + _BINARY_COPIES * len(binary))
    request = parse(text)
    tensor, count = check_input(request, spec)
    announced = None if tensor.parameters is None else tensor.parameters.binary_data_size
    if len(binary) or announced:
        _check_binary(tensor, announced, len(binary))
        images, pixels = from_binary(binary, count, spec)
    else:
        images, pixels = await _from_json(memoryview(tensor.data), count, spec)
    return infer(request, spec.model, images, pixels)


def infer(
    request: InferRequest, model: ModelName, images: Sequence[bytes], pixels: Sequence[Pixels]
) -> Infer:
    """Return the images of a request together with its options. Raises BadRequest."""
    parameters = request.parameters or Parameters()
    return Infer(
        images,
        pixels,
        _wanted(request, model),
        id=request.id,
        top_k=parameters.top_k,
        timeout_s=parameters.timeout / 1e6 if parameters.timeout else None,
        priority=parameters.priority or 0,
        ood_action=parameters.ood_action,
    )


def check_input(request: InferRequest, spec: InputSpec) -> tuple[Input, int]:
    """Return the only input and its number of images. Raises BadRequest."""
    model = spec.model
    if len(request.inputs) != 1:
        raise BadRequest(
            f"expected 1 inputs but got {len(request.inputs)} inputs for model {model.given!r}"
        )
    [tensor] = request.inputs
    if tensor.name != model.input_name:
        raise BadRequest(
            f"unexpected inference input {tensor.name[:_SHOWN]!r} for model {model.given!r}; "
            f"its input is {model.input_name!r}"
        )
    if tensor.parameters is not None and tensor.parameters.shared_memory_region is not None:
        raise BadRequest(NO_SHARED_MEMORY)
    if tensor.datatype != model.input_datatype:
        raise BadRequest(
            f"inference input {tensor.name!r} data-type is {tensor.datatype[:_SHOWN]!r}, "
            f"but model {model.given!r} expects {model.input_datatype!r}"
        )
    count = _images_in(tuple(tensor.shape), spec)
    if count > spec.max_images:
        raise BadRequest(
            f"inference request batch-size must be <= {spec.max_images} for {model.given!r}"
        )
    return tensor, count


def from_binary(
    data: memoryview, count: int, spec: InputSpec
) -> tuple[Sequence[bytes], Sequence[Pixels]]:
    """Return the `count` images in a binary tensor. Raises BadRequest."""
    name = spec.model.input_name
    if not spec.model.takes_pixels:
        return split_elements(data, count, name), ()
    expected = count * math.prod(spec.pixels_shape)
    if len(data) != expected:
        raise BadRequest(
            f"Input {name!r} has {len(data):,} bytes, but its shape and datatype say {expected:,}."
        )
    return (), to_pixels(np.frombuffer(data, np.uint8), count, spec)


def to_pixels(values: NDArray[np.uint8], count: int, spec: InputSpec) -> Sequence[Pixels]:
    """Return the values of a tensor as images, in the model's order of channels."""
    tensor = values.reshape(count, *spec.pixels_shape)
    if spec.is_bgr:
        tensor = np.ascontiguousarray(tensor[..., ::-1])
    return [Pixels(image) for image in tensor]


def _images_in(shape: tuple[int, ...], spec: InputSpec) -> int:
    """Return the number of images. Raises BadRequest for a wrong shape."""
    row = spec.pixels_shape if spec.model.takes_pixels else (1,)
    is_flat = len(shape) == 1 and not spec.model.takes_pixels  # OpenVINO's clients send [N]
    if not (is_flat or (shape[1:] == row and shape)) or not shape[0]:
        wanted = ",".join(map(str, (-1, *row)))
        raise BadRequest(
            f"unexpected shape for input {spec.model.input_name!r} for model "
            f"{spec.model.given!r}. Expected [{wanted}], got [{','.join(map(str, shape))}]"
        )
    return shape[0]


def _raw(body: bytes, spec: InputSpec) -> Infer:
    """Return the request of a body that is one image."""
    if spec.model.takes_pixels:
        images, pixels = from_binary(memoryview(body), 1, spec)
    else:
        images, pixels = [body], ()
    return Infer(images, pixels, all_outputs(spec.model.outputs, binary=True))


def _check_binary(tensor: Input, announced: int | None, binary_bytes: int) -> None:
    """Raise BadRequest unless the binary data is exactly this input's.

    Without `binary_data_size` it is all of it, as OpenVINO Model Server does.
    """
    if len(memoryview(tensor.data)):
        raise BadRequest(f"Input {tensor.name!r} has both data and binary data.")
    if announced is not None and announced != binary_bytes:
        raise BadRequest(
            f"binary_data_size of input {tensor.name!r} is {announced:,}, but "
            f"{binary_bytes:,} bytes follow the JSON."
        )


async def _from_json(
    data: memoryview, count: int, spec: InputSpec
) -> tuple[Sequence[bytes], Sequence[Pixels]]:
    name = spec.model.input_name
    if not data:
        raise BadRequest(f"Input {name!r} has no data.")
    if not spec.model.takes_pixels:
        return await base64_elements(data, count, name), ()
    values = await uint8_elements(data, count * math.prod(spec.pixels_shape), name)
    return (), to_pixels(values, count, spec)


@lru_cache(maxsize=8)
def all_outputs(outputs: tuple[Output, ...], *, binary: bool) -> tuple[Wanted, ...]:
    """Return each output as it is; always the same tuple."""
    return tuple(Wanted(output, binary) for output in outputs)


def _wanted(request: InferRequest, model: ModelName) -> Sequence[Wanted]:
    """Return the outputs of the answer, all of them by default. Raises BadRequest."""
    binary = bool(request.parameters and request.parameters.binary_data_output)
    if not request.outputs:
        return all_outputs(model.outputs, binary=binary)
    wanted = [_one_wanted(one, model, binary=binary) for one in request.outputs]
    if len({one.output.name for one in wanted}) < len(wanted):
        raise BadRequest("An output is requested more than once.")
    return wanted


def _one_wanted(requested: RequestedOutput, model: ModelName, *, binary: bool) -> Wanted:
    output, parameters = OUTPUTS.get(requested.name), requested.parameters or OutputParameters()
    if output is None:
        raise BadRequest(
            f"unexpected inference output {requested.name[:_SHOWN]!r} for model {model.given!r}; "
            f"its outputs are {', '.join(OUTPUTS)}"
        )
    if parameters.shared_memory_region is not None:
        raise BadRequest(NO_SHARED_MEMORY)
    if parameters.classification and output.name == FEATURES:
        raise BadRequest("features are not classes: request them without classification")
    is_binary = binary if parameters.binary_data is None else parameters.binary_data
    return Wanted(output, is_binary, parameters.classification or 0)
