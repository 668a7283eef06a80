"""Shared rules of the importers: how libraries load files, and validation of specs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from tidegate.models.errors import BuildRefused
from tidegate.service.imaging.spec import Filter, PreprocessSpec

# `Image.open(file).convert("RGB")`, as in timm's and torchvision's datasets: EXIF is ignored,
# transparency is dropped, and values above 255 of 16-bit images become 255.
PILLOW_CONVERT: dict[str, Any] = {
    "exif_orientation": "ignore",
    "alpha": "drop",
    "sixteen_bit": "clip",
}
# The same after `ImageOps.exif_transpose`, as transformers' `load_image` does.
PILLOW_TRANSPOSE_CONVERT = PILLOW_CONVERT | {"exif_orientation": "apply"}

# Pillow's filter numbers, as stored in configurations.
PILLOW_FILTERS: dict[int, Filter] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
TORCH_FILTERS = ("bilinear", "bicubic")  # for tensors, antialiased


def spec(source: str, **fields: Any) -> PreprocessSpec:
    """Return the spec of these fields; `source` is their origin, for the error message.

    Raises BuildRefused with every field that is out of range.
    """
    try:
        return PreprocessSpec(**fields)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the steps'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise BuildRefused(f"{source}: unsupported preprocessing: {reasons}.") from (error)


def three(source: str, name: str, values: object) -> tuple[float, float, float]:
    """Return one number per channel from one or three. Raises BuildRefused for anything else."""
    if isinstance(values, int | float):
        return (float(values),) * 3
    numbers = tuple(values) if isinstance(values, Iterable) else ()
    if len(numbers) == 3 and all(isinstance(number, int | float) for number in numbers):
        return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
    raise BuildRefused(f"{source}: `{name}` is {values!r}, not three numbers for red, green, blue.")
