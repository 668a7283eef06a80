"""What preprocessing is: a closed list of typed steps with a digest. No pixels here.

Every field is a rule on which libraries differ, so none is implied. An unknown field or value is
an error: a spec that exists is one that `preprocess` carries out exactly.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
Offset = Literal["floor", "ceil", "half-even"]
# torch: uint8 tensors, antialiased, as torchvision's tensor transforms resize them on a CPU
Backend = Literal["pillow", "torch"]


class Closed(BaseModel):
    """A frozen model that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Resampling(Closed):
    """What both resizes share: a filter that the backend has, antialiased."""

    filter: Filter
    backend: Backend = "pillow"

    @model_validator(mode="after")
    def _backend_has_the_filter(self) -> Self:
        if self.backend == "torch" and self.filter not in ("bilinear", "bicubic"):
            raise ValueError(f"backend torch resizes with bilinear or bicubic, not {self.filter}")
        return self


class Resize(_Resampling):
    """Resize to an exact size with antialiased resampling."""

    op: Literal["resize"] = "resize"
    height: PositiveInt
    width: PositiveInt


class ResizeShortestEdge(_Resampling):
    """Resize so that the shorter side is `size`, keeping the aspect ratio.

    `rounding` is for the longer side: torchvision truncates, timm's and others' rules round.
    """

    op: Literal["resize-shortest-edge"] = "resize-shortest-edge"
    size: PositiveInt
    rounding: Literal["truncate", "round"]


class CentreCrop(Closed):
    """Cut `height` × `width` out of the middle; a smaller image is padded with black.

    `offset` rounds half a pixel: torchvision half-even, Hugging Face and Keras floor.
    """

    op: Literal["centre-crop"] = "centre-crop"
    height: PositiveInt
    width: PositiveInt
    offset: Offset


class CentreCropFraction(Closed):
    """Cut a centred square of side floor(numerator / denominator · shorter side), at least 1."""

    op: Literal["centre-crop-fraction"] = "centre-crop-fraction"
    numerator: PositiveInt
    denominator: PositiveInt
    offset: Offset

    @model_validator(mode="after")
    def _is_a_fraction(self) -> Self:
        if self.numerator > self.denominator:
            raise ValueError("a crop fraction is at most 1")
        return self


Step = Annotated[
    Resize | ResizeShortestEdge | CentreCrop | CentreCropFraction, Field(discriminator="op")
]


class PreprocessSpec(Closed):
    """From an encoded image to the uint8 pixels the sealed graph takes, and on to its floats.

    The graph computes `(pixel · scale − mean) / std` per channel; the host does everything before.
    """

    decoder: Literal["pillow"] = "pillow"
    icc_profile: Literal["ignore"] = "ignore"
    # `apply` is Pillow's `ImageOps.exif_transpose`: the orientation of EXIF; that of XMP if EXIF
    # has no such tag or there is no EXIF; none if EXIF cannot be read or the number is not 1 to 8.
    # A PNG may give either after its pixels, or EXIF as ImageMagick's text. Pillow turns a TIFF
    # while it loads it, so a TIFF is upright with `ignore` as well.
    exif_orientation: Literal["apply", "ignore"]
    palette: Literal["expand"] = "expand"
    alpha: Literal["drop", "composite-white", "composite-black"]
    cmyk: Literal["pillow"] = "pillow"
    grey: Literal["replicate"] = "replicate"
    sixteen_bit: Literal["scale", "clip"]
    steps: tuple[Step, ...] = Field(min_length=1, max_length=8)
    channel_order: Literal["rgb", "bgr"]
    scale: float = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(gt=0)],
        Annotated[float, Field(gt=0)],
    ]

    @model_validator(mode="after")
    def _ends_in_one_size(self) -> Self:
        if not isinstance(self.steps[-1], Resize | CentreCrop):
            raise ValueError("the last step must give one size: resize or centre-crop")
        return self

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of every preprocessed image."""
        last = self.steps[-1]
        if not isinstance(last, Resize | CentreCrop):  # pragma: no cover - see _ends_in_one_size
            raise AssertionError("the last step gives no size")
        return last.height, last.width

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON, the identity of this preprocessing."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
