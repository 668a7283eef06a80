"""Translate a preprocessor_config.json to a PreprocessSpec. Pure: no transformers, no torch.

The rules are those of transformers 5, which apply to older files too. None or an absent key means
the class's default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.huggingface_processors import (
    EXTRA_KEYS,
    PROCESSORS,
    Family,
    Processor,
)
from tidegate.models.importers.spec_rules import (
    PILLOW_FILTERS,
    PILLOW_TRANSPOSE_CONVERT,
    TORCH_FILTERS,
    spec,
    three,
)
from tidegate.service.imaging.spec import (
    CentreCrop,
    Filter,
    PreprocessSpec,
    Resize,
    ResizeShortestEdge,
    Step,
)

ResizeBackend = Literal["pillow", "torch"]
Size = Mapping[str, int]

_FILE = "preprocessor_config.json"
_SHARED_KEYS = {
    "do_resize",
    "size",
    "default_to_square",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
    "do_pad",
    "pad_size",
}
# Metadata, and keys that change no pixel: `load_image` has already converted every image to RGB,
# and segmentation labels are not images.
_SILENT_KEYS = {
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
    "do_convert_rgb",
    "do_reduce_labels",
    "reduce_labels",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "image_seq_length",
}


@dataclass(frozen=True, slots=True)
class Translation:
    """A spec, and which of transformers' two backends it describes."""

    spec: PreprocessSpec
    backend: ResizeBackend


def translate(config: Mapping[str, Any], backend: str | None) -> Translation:
    """Return the spec of a `preprocessor_config.json`.

    `backend` is the user's choice, "pillow" or "torch". Raises BuildRefused with the key that
    has no exact translation, or if the backend is needed and not given.
    """
    name, fast = _type(config)
    processor = PROCESSORS.get(name)
    if processor is None:
        raise BuildRefused(
            f"{_FILE} is for {name}, which is not supported; supported are "
            f"{', '.join(PROCESSORS)}. Export the model to ONNX and import it with --spec instead."
        )
    _check_keys(config, processor)
    values = processor.defaults | {key: value for key, value in config.items() if value is not None}
    chosen = _backend(name, fast, backend)
    scale, mean, std = _arithmetic(values, processor.family)
    flips = processor.family == "mobilevit" and values["do_flip_channel_order"]
    return Translation(
        spec(
            _FILE,
            **PILLOW_TRANSPOSE_CONVERT,
            steps=_steps(values, processor, chosen),
            channel_order="bgr" if flips else "rgb",
            scale=scale,
            mean=mean,
            std=std,
        ),
        chosen,
    )


def _type(config: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the image processor's name without "Fast", and whether it had that suffix."""
    name = config.get("image_processor_type")
    if name is None and isinstance(extractor := config.get("feature_extractor_type"), str):
        name = extractor.replace("FeatureExtractor", "ImageProcessor")
    if not isinstance(name, str):
        raise BuildRefused(
            f"{_FILE} has no image_processor_type: add the one that was used in training, "
            'such as "ViTImageProcessor".'
        )
    return name.removesuffix("Fast"), name.endswith("Fast")


def _check_keys(config: Mapping[str, Any], processor: Processor) -> None:
    if "auto_map" in config:
        raise BuildRefused(f"{_FILE} needs custom code (auto_map), which is not run.")
    known = _SHARED_KEYS | _SILENT_KEYS | EXTRA_KEYS[processor.family]
    unknown = sorted(set(config) - known)
    if unknown:
        raise BuildRefused(
            f"{_FILE} has the unknown keys {', '.join(unknown)}: remove those that change no "
            "pixel, or export the model to ONNX and import it with --spec."
        )
    for key in ("data_format", "input_data_format"):
        if config.get(key) not in (None, "channels_first"):
            raise BuildRefused(
                f"{_FILE} has {key} {config[key]!r}; only channels_first is supported."
            )
    if config.get("do_pad"):
        raise BuildRefused(f"{_FILE} has do_pad, but padding is not supported.")


def _backend(name: str, fast: bool, stated: str | None) -> ResizeBackend:
    if stated not in (None, "pillow", "torch"):
        raise BuildRefused(f"transformers resizes with pillow or torch, not with {stated}.")
    if fast and stated == "pillow":
        raise BuildRefused(
            f"{_FILE} names {name}Fast, which resizes tensors with torch: omit --backend."
        )
    if fast or stated == "torch":
        return "torch"
    if stated is None:
        raise BuildRefused(
            f"Give --backend pillow or --backend torch, the one used in training: {_FILE} does not "
            "state it. transformers before 5 used Pillow unless use_fast was set; from 5 on, torch."
        )
    return "pillow"


def _steps(
    values: Mapping[str, Any], processor: Processor, backend: ResizeBackend
) -> tuple[Step, ...]:
    if not values["do_resize"]:
        raise BuildRefused(f"{_FILE} has do_resize off; a resize step is required.")
    resize = _Resize(_filter(values["resample"], backend), backend)
    size = _size(values, processor)
    steps = _RESIZES[processor.family](size, values, resize)
    if values["do_center_crop"]:
        if values["crop_size"] is None:
            raise BuildRefused(f"{_FILE} has do_center_crop without a crop_size: add one.")
        height, width = _sides("crop_size", _size_of("crop_size", values["crop_size"], True))
        steps = (*steps, CentreCrop(height=height, width=width, offset="floor"))
    if backend == "pillow":
        _check_padding(steps)
    return steps


def _check_padding(steps: tuple[Step, ...]) -> None:
    """Reject crops larger than the image: transformers' Pillow backend rounds odd padding up."""
    for before, crop in pairwise(steps):
        if not isinstance(crop, CentreCrop):
            continue
        height, width = (
            (before.size, before.size) if isinstance(before, ResizeShortestEdge) else _exact(before)
        )
        if crop.height > height or crop.width > width:
            raise BuildRefused(
                f"{_FILE} crops {crop.height} × {crop.width} from {height} × {width}; the padding "
                "cannot be reproduced exactly. Use a larger size or a smaller crop_size, if the "
                "model was trained with it."
            )


def _exact(step: Step) -> tuple[int, int]:
    if not isinstance(step, Resize | CentreCrop):  # pragma: no cover - no rule returns another step
        raise AssertionError(f"{step} gives no size")
    return step.height, step.width


@dataclass(frozen=True, slots=True)
class _Resize:
    """How every step of one file resizes."""

    filter: Filter
    backend: ResizeBackend

    def shortest(self, size: int) -> Step:
        return ResizeShortestEdge(
            size=size, rounding="truncate", filter=self.filter, backend=self.backend
        )

    def exact(self, height: int, width: int) -> Step:
        return Resize(height=height, width=width, filter=self.filter, backend=self.backend)


def _plain(size: Size, values: Mapping[str, Any], resize: _Resize) -> tuple[Step, ...]:
    if set(size) == {"shortest_edge"}:
        return (resize.shortest(size["shortest_edge"]),)
    return (resize.exact(*_sides("size", size)),)


def _convnext(size: Size, values: Mapping[str, Any], resize: _Resize) -> tuple[Step, ...]:
    """Below 384: resize to size / crop_pct and crop; from 384 on, resize to a square."""
    if set(size) != {"shortest_edge"}:
        raise BuildRefused(f"{_FILE} has size {dict(size)}; ConvNext needs only shortest_edge.")
    edge = size["shortest_edge"]
    if edge >= 384:
        return (resize.exact(edge, edge),)
    crop = CentreCrop(height=edge, width=edge, offset="floor")
    return resize.shortest(_divided(edge, values)), crop


def _levit(size: Size, values: Mapping[str, Any], resize: _Resize) -> tuple[Step, ...]:
    if set(size) == {"shortest_edge"}:
        return (resize.shortest(int((256 / 224) * size["shortest_edge"])),)
    return _plain(size, values, resize)


def _poolformer(size: Size, values: Mapping[str, Any], resize: _Resize) -> tuple[Step, ...]:
    if set(size) == {"shortest_edge"}:
        return (resize.shortest(_divided(size["shortest_edge"], values)),)
    height, width = _sides("size", size)
    if height == width:
        return (resize.shortest(_divided(height, values)),)
    return (resize.exact(_divided(height, values), _divided(width, values)),)


_RESIZES: dict[Family, Callable[[Size, Mapping[str, Any], _Resize], tuple[Step, ...]]] = {
    "plain": _plain,
    "efficientnet": _plain,
    "mobilevit": _plain,
    "convnext": _convnext,
    "levit": _levit,
    "poolformer": _poolformer,
}


def _divided(size: int, values: Mapping[str, Any]) -> int:
    crop_pct = values["crop_pct"]
    if not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 2:
        raise BuildRefused(f"{_FILE} has crop_pct {crop_pct!r}: use a fraction such as 0.875.")
    return int(size / crop_pct)


def _size(values: Mapping[str, Any], processor: Processor) -> Size:
    square = values.get("default_to_square", processor.square)
    return _size_of("size", values["size"], bool(square))


def _size_of(key: str, value: Any, square: bool) -> Size:
    """Return a size as a mapping; a single number is a square or the shorter edge."""
    if isinstance(value, int):
        return {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"height": value[0], "width": value[1]}
    if isinstance(value, Mapping):
        size = {name: side for name, side in value.items() if side is not None}
        if all(isinstance(side, int) and side > 0 for side in size.values()) and set(size) in (
            {"height", "width"},
            {"shortest_edge"},
        ):
            return size
    raise BuildRefused(
        f"{_FILE} has {key} {value!r}, which is not supported: use height and width, or only "
        "shortest_edge."
    )


def _sides(key: str, size: Size) -> tuple[int, int]:
    if set(size) != {"height", "width"}:
        raise BuildRefused(f"{_FILE} has {key} {dict(size)}: use height and width.")
    return size["height"], size["width"]


def _filter(resample: Any, backend: ResizeBackend) -> Filter:
    name = PILLOW_FILTERS.get(resample) if isinstance(resample, int) else None
    if name is None:
        raise BuildRefused(f"{_FILE} has resample {resample!r}: Pillow's filters are 0 to 5.")
    if backend == "torch" and name not in TORCH_FILTERS:
        raise BuildRefused(
            f"{_FILE} resizes tensors with {name}, which is not supported; use "
            f"{' or '.join(TORCH_FILTERS)}."
        )
    return name


def _arithmetic(
    values: Mapping[str, Any], family: Family
) -> tuple[float, tuple[float, float, float], tuple[float, float, float]]:
    """Return scale, mean and std of (x · scale − mean) / std, for rescaling and normalising."""
    # MobileViT's processor accepts do_normalize but never normalises.
    normalises = bool(values["do_normalize"]) and family != "mobilevit"
    if not values["do_rescale"] and not normalises:
        raise BuildRefused(
            f"{_FILE} neither rescales nor normalises, but the network needs floats."
        )
    scale = float(values["rescale_factor"]) if values["do_rescale"] else 1.0
    shift = 1.0 if values["do_rescale"] and values.get("rescale_offset") else 0.0
    mean, std = (shift,) * 3, (1.0,) * 3
    if normalises:
        given = three(_FILE, "image_mean", values["image_mean"])
        mean = (given[0] + shift, given[1] + shift, given[2] + shift)
        std = three(_FILE, "image_std", values["image_std"])
    if values.get("include_top"):  # EfficientNet's training divided by std twice
        again = three(_FILE, "image_std", values["image_std"])
        std = (std[0] * again[0], std[1] * again[1], std[2] * again[2])
    return scale, mean, std
