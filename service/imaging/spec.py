"""The preprocessing spec: a closed list of typed steps with a digest. It handles no pixels.

Libraries differ in every rule that has a field here, so most fields are required. An unknown field
or value is an error: `preprocess` implements every valid spec exactly.
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
    """A frozen model that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Resampling(Closed):
    """The common part of both resizes: an antialiased filter that the backend supports."""

    filter: Filter
    backend: Backend = "pillow"

    @model_validator(mode="after")
    def _backend_has_the_filter(self) -> Self:
        if self.backend == "torch" and self.filter not in ("bilinear", "bicubic"):
            raise ValueError(f"backend torch supports bilinear and bicubic, not {self.filter}")
        return self


class Resize(_Resampling):
    """Resize to an exact size with antialiased resampling."""

    op: Literal["resize"] = "resize"
    height: PositiveInt
    width: PositiveInt


class ResizeShortestEdge(_Resampling):
    """Resize so that the shorter side is `size`, keeping the aspect ratio.

    `rounding` applies to the longer side: torchvision truncates, timm and others round.
    """

    op: Literal["resize-shortest-edge"] = "resize-shortest-edge"
    size: PositiveInt
    rounding: Literal["truncate", "round"]


class CentreCrop(Closed):
    """Crop `height` × `width` from the centre; a smaller image is padded with black.

    `offset` rounds half pixels: torchvision uses half-even, Hugging Face and Keras floor.
    """

    op: Literal["centre-crop"] = "centre-crop"
    height: PositiveInt
    width: PositiveInt
    offset: Offset


class CentreCropFraction(Closed):
    """Crop a centred square of side floor(numerator / denominator · shorter side), at least 1."""

    op: Literal["centre-crop-fraction"] = "centre-crop-fraction"
    numerator: PositiveInt
    denominator: PositiveInt
    offset: Offset

    @model_validator(mode="after")
    def _is_a_fraction(self) -> Self:
        if self.numerator > self.denominator:
            raise ValueError("a crop fraction must be at most 1")
        return self


Step = Annotated[
    Resize | ResizeShortestEdge | CentreCrop | CentreCropFraction, Field(discriminator="op")
]


class PreprocessSpec(Closed):
    """From an encoded image to the network's input.

    The graph computes `(pixel · scale − mean) / std` per channel from uint8 pixels; the service
    does everything before.
    """

    # Of colour JPEGs: Pillow's libjpeg-turbo, or nvJPEG on a GPU. Pillow decodes everything else.
    decoder: Literal["pillow", "nvjpeg"] = "pillow"
    icc_profile: Literal["ignore"] = "ignore"
    # `apply` equals Pillow's `ImageOps.exif_transpose`: the orientation of EXIF; that of XMP if
    # EXIF has no such tag or there is no EXIF; none if EXIF cannot be read or the value is not 1 to
    # 8. In a PNG either may follow the pixels, and EXIF may be ImageMagick's text chunk. Pillow
    # orients a TIFF while it loads it, so a TIFF is upright with `ignore` as well.
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
            raise ValueError("the last step must give a fixed size: resize or centre-crop")
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
