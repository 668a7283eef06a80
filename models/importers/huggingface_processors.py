"""The defaults of transformers' image processors for classification, as of transformers 5.24.

A test compares the table with the library's own classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Family = Literal["plain", "convnext", "levit", "poolformer", "efficientnet", "mobilevit"]
Triple = tuple[float, float, float]

IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
STANDARD: tuple[Triple, Triple] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLIP: tuple[Triple, Triple] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
BILINEAR, BICUBIC = 2, 3

EXTRA_KEYS: dict[Family, set[str]] = {
    "plain": set(),
    "convnext": {"crop_pct"},
    "levit": set(),
    "poolformer": {"crop_pct"},
    "efficientnet": {"rescale_offset", "include_top"},
    "mobilevit": {"do_flip_channel_order"},
}


@dataclass(frozen=True, slots=True)
class Processor:
    """One image processor: its arithmetic, and the defaults of absent keys."""

    family: Family
    defaults: dict[str, Any]
    square: bool  # a size of one number is a square; else the shorter edge


def _processor(
    size: int | dict[str, int],
    normalisation: tuple[Triple, Triple],
    resample: int,
    *,
    crop: int | None = None,
    crops: bool | None = None,
    square: bool = True,
    family: Family = "plain",
    **more: Any,
) -> Processor:
    defaults = {
        "do_resize": True,
        "size": {"height": size, "width": size} if isinstance(size, int) else size,
        "resample": resample,
        "do_center_crop": crop is not None if crops is None else crops,
        "crop_size": None if crop is None else {"height": crop, "width": crop},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": normalisation[0],
        "image_std": normalisation[1],
    }
    return Processor(family, defaults | more, square)


def _edge(size: int) -> dict[str, int]:
    return {"shortest_edge": size}


PROCESSORS: dict[str, Processor] = {
    "ViTImageProcessor": _processor(224, STANDARD, BILINEAR),
    "DeiTImageProcessor": _processor(256, STANDARD, BICUBIC, crop=224),
    "BeitImageProcessor": _processor(224, STANDARD, BICUBIC, crop=224, crops=False),
    "BitImageProcessor": _processor(_edge(224), CLIP, BICUBIC, crop=224, square=False),
    "CLIPImageProcessor": _processor(_edge(224), CLIP, BICUBIC, crop=224, square=False),
    "ConvNextImageProcessor": _processor(
        _edge(384), STANDARD, BICUBIC, square=False, family="convnext", crop_pct=224 / 256
    ),
    "EfficientNetImageProcessor": _processor(
        346,
        STANDARD,
        BICUBIC,
        crop=289,
        crops=False,
        family="efficientnet",
        rescale_offset=False,
        include_top=True,
    ),
    "LevitImageProcessor": _processor(
        _edge(224), IMAGENET, BICUBIC, crop=224, square=False, family="levit"
    ),
    "MobileNetV1ImageProcessor": _processor(_edge(256), STANDARD, BILINEAR, crop=224, square=False),
    "MobileNetV2ImageProcessor": _processor(_edge(256), STANDARD, BILINEAR, crop=224, square=False),
    "MobileViTImageProcessor": _processor(
        _edge(224),
        STANDARD,
        BICUBIC,
        crop=256,
        square=False,
        family="mobilevit",
        do_normalize=None,
        do_flip_channel_order=True,
    ),
    "PoolFormerImageProcessor": _processor(
        _edge(224), IMAGENET, BICUBIC, crop=224, square=False, family="poolformer", crop_pct=0.9
    ),
    "PvtImageProcessor": _processor(224, IMAGENET, BICUBIC),
    "SiglipImageProcessor": _processor(224, STANDARD, BICUBIC, square=False),
}
