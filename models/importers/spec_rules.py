"""What the importers' rules share: how a library's loader reads files, and a spec or a refusal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from tidegate.models.errors import BuildRefused
from tidegate.service.imaging.spec import Filter, PreprocessSpec

# `Image.open(file).convert("RGB")`, as timm's and torchvision's datasets load: EXIF is not looked
# at, transparency is dropped, and values above 255 of 16-bit images become 255.
PILLOW_CONVERT: dict[str, Any] = {
    "exif_orientation": "ignore",
    "alpha": "drop",
    "sixteen_bit": "clip",
}
# The same after `ImageOps.exif_transpose`, as transformers' `load_image` does.
PILLOW_TRANSPOSE_CONVERT = PILLOW_CONVERT | {"exif_orientation": "apply"}

# Pillow's numbers of its filters, as configurations keep them.
PILLOW_FILTERS: dict[int, Filter] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
TORCH_FILTERS = ("bilinear", "bicubic")  # what tensors are resized with, antialiased


def spec(source: str, **fields: Any) -> PreprocessSpec:
    """Return the spec of these fields; `source` names where they are from.

    Raises BuildRefused naming each field that is out of its range.
    """
    try:
        return PreprocessSpec(**fields)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the steps'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise BuildRefused(f"{source} gives no preprocessing that can be served: {reasons}.") from (
            error
        )


def three(source: str, name: str, values: object) -> tuple[float, float, float]:
    """Return one number a channel from a number or three; raises BuildRefused otherwise."""
    if isinstance(values, int | float):
        return (float(values),) * 3
    numbers = tuple(values) if isinstance(values, Iterable) else ()
    if len(numbers) == 3 and all(isinstance(number, int | float) for number in numbers):
        return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
    raise BuildRefused(f"{source}: `{name}` is {values!r}, not three numbers for red, green, blue.")
