"""The preprocessing spec: a closed list of typed steps with a digest. It handles no pixels.

Libraries differ in every rule that has a field here, so most fields are required. An unknown field
or value is an error: `preprocess` implements every valid spec exactly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos", "area"]
Offset = Literal["floor", "ceil", "half-even"]
# torch: uint8 tensors, antialiased, as torchvision's tensor transforms resize them on a CPU
# cv2: OpenCV's resize of uint8 on a CPU; its bilinear filter is not antialiased
Backend = Literal["pillow", "torch", "cv2"]
Level = Annotated[int, Field(ge=0, le=255)]
FILTERS: Mapping[Backend, tuple[Filter, ...]] = {
    "pillow": ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"),
    "torch": ("bilinear", "bicubic"),
    "cv2": ("nearest", "bilinear", "area"),
}


class Closed(BaseModel):
    """A frozen model that rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Resampling(Closed):
    """The common part of the resizes: a filter that the backend supports."""

    filter: Filter
    backend: Backend = "pillow"

    @model_validator(mode="after")
    def _backend_has_the_filter(self) -> Self:
        if self.filter not in FILTERS[self.backend]:
            known = FILTERS[self.backend]
            raise ValueError(
                f"backend {self.backend} supports {', '.join(known[:-1])} and {known[-1]}, "
                f"not {self.filter}"
            )
        return self


class Resize(_Resampling):
    """Resize to an exact size."""

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


class ResizeKeepRatio(_Resampling):
    """Resize with one factor for both sides, so that the image just fits or covers a size.

    The factor comes from the two quotients of the sides: the image stays `inside` height × width,
    as for a letterbox, or is made to `cover` it. Libraries multiply by the factor (`product`:
    letterbox code, albumentations) or divide by its inverse (`quotient`: timm), which can round
    differently. A side is at least 1.
    """

    op: Literal["resize-keep-ratio"] = "resize-keep-ratio"
    height: PositiveInt
    width: PositiveInt
    fit: Literal["inside", "cover"]
    factor: Literal["product", "quotient"]
    rounding: Literal["truncate", "round"]


class Pad(Closed):
    """Put the image in the middle of a canvas of `height` × `width` and `colour`.

    The smaller half of a border comes first. What is larger is cut as by a centre crop, whose half
    pixels `offset` rounds.
    """

    op: Literal["pad"] = "pad"
    height: PositiveInt
    width: PositiveInt
    colour: tuple[Level, Level, Level]  # red, green, blue
    offset: Offset


class Grey(Closed):
    """Replace all three channels by the luminance, weighted and rounded as a library does it."""

    op: Literal["grey"] = "grey"
    backend: Literal["pillow", "cv2"]


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
    Resize | ResizeShortestEdge | ResizeKeepRatio | CentreCrop | CentreCropFraction | Pad | Grey,
    Field(discriminator="op"),
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
        if self._sized is None:
            raise ValueError(
                "the last step, except grey, must give a fixed size: resize, centre-crop or pad"
            )
        return self

    @property
    def _sized(self) -> Resize | CentreCrop | Pad | None:
        """The step that gives the size of the result, if it is a fixed one."""
        last = next((step for step in reversed(self.steps) if not isinstance(step, Grey)), None)
        return last if isinstance(last, Resize | CentreCrop | Pad) else None

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of every preprocessed image."""
        if self._sized is None:  # pragma: no cover - see _ends_in_one_size
            raise AssertionError("the last step gives no size")
        return self._sized.height, self._sized.width

    @property
    def is_grey(self) -> bool:
        """Whether the three channels are equal, which a network of one channel needs."""
        return any(isinstance(step, Grey) for step in self.steps)

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON, the identity of this preprocessing."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
