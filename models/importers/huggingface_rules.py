"""transformers' preprocessor_config.json to a PreprocessSpec. Pure: neither transformers nor torch.

Every rule is transformers 5's, whose image processors read older files by the same rules. They
take None, or an absent key, for the class's default; so does this.
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
# What the file says of itself, and what changes no pixel: `load_image` has made every image RGB,
# and labels of segmentation are not images.
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
    """A spec, and which of transformers' two backends it is of."""

    spec: PreprocessSpec
    backend: ResizeBackend


def translate(config: Mapping[str, Any], backend: str | None) -> Translation:
    """Return the spec of a `preprocessor_config.json`.

    `backend` is what the maker states: "pillow" or "torch". Raises BuildRefused naming the key
    that cannot be stated exactly, or asking for the backend where the file does not say it.
    """
    name, fast = _type(config)
    processor = PROCESSORS.get(name)
    if processor is None:
        raise BuildRefused(
            f"{_FILE} is for {name}; served are {', '.join(PROCESSORS)}. State the preprocessing "
            "in a spec with --spec instead."
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
    """Return the image processor's name without "Fast", and whether it said so."""
    name = config.get("image_processor_type")
    if name is None and isinstance(extractor := config.get("feature_extractor_type"), str):
        name = extractor.replace("FeatureExtractor", "ImageProcessor")
    if not isinstance(name, str):
        raise BuildRefused(
            f"{_FILE} has no image_processor_type: add the one the model was trained with, "
            'such as "ViTImageProcessor".'
        )
    return name.removesuffix("Fast"), name.endswith("Fast")


def _check_keys(config: Mapping[str, Any], processor: Processor) -> None:
    if "auto_map" in config:
        raise BuildRefused(f"{_FILE} names code of its own (auto_map), which is not run here.")
    known = _SHARED_KEYS | _SILENT_KEYS | EXTRA_KEYS[processor.family]
    unknown = sorted(set(config) - known)
    if unknown:
        raise BuildRefused(
            f"{_FILE} has {', '.join(unknown)}, which this importer does not know: remove what "
            "changes no pixel, or state the preprocessing in a spec with --spec."
        )
    for key in ("data_format", "input_data_format"):
        if config.get(key) not in (None, "channels_first"):
            raise BuildRefused(f"{_FILE} has {key} {config[key]!r}; only channels_first is served.")
    if config.get("do_pad"):
        raise BuildRefused(f"{_FILE} has do_pad, and padding is no step of a spec.")


def _backend(name: str, fast: bool, stated: str | None) -> ResizeBackend:
    if stated not in (None, "pillow", "torch"):
        raise BuildRefused(f"transformers resizes with pillow or torch, not with {stated}.")
    if fast and stated == "pillow":
        raise BuildRefused(
            f"{_FILE} says {name}Fast, which resizes tensors with torch: leave --backend out."
        )
    if fast or stated == "torch":
        return "torch"
    if stated is None:
        raise BuildRefused(
            f"State --backend pillow or --backend torch: {_FILE} does not say which one trained "
            "the model. transformers before 5 used Pillow unless use_fast was set; from 5 on torch."
        )
    return "pillow"


def _steps(
    values: Mapping[str, Any], processor: Processor, backend: ResizeBackend
) -> tuple[Step, ...]:
    if not values["do_resize"]:
        raise BuildRefused(f"{_FILE} has do_resize off: state what resizes in a spec with --spec.")
    resize = _Resize(_filter(values["resample"], backend), backend)
    size = _size(values, processor)
    steps = _RESIZES[processor.family](size, values, resize)
    if values["do_center_crop"]:
        if values["crop_size"] is None:
            raise BuildRefused(f"{_FILE} has do_center_crop without a crop_size: state one.")
        height, width = _sides("crop_size", _size_of("crop_size", values["crop_size"], True))
        steps = (*steps, CentreCrop(height=height, width=width, offset="floor"))
    if backend == "pillow":
        _check_padding(steps)
    return steps


def _check_padding(steps: tuple[Step, ...]) -> None:
    """Refuse crops larger than what they cut: transformers' Pillow side rounds odd padding up."""
    for before, crop in pairwise(steps):
        if not isinstance(crop, CentreCrop):
            continue
        height, width = (
            (before.size, before.size) if isinstance(before, ResizeShortestEdge) else _exact(before)
        )
        if crop.height > height or crop.width > width:
            raise BuildRefused(
                f"{_FILE} crops {crop.height} × {crop.width} out of {height} × {width}: the "
                "padding differs by a pixel from any spec. State a larger size or a smaller "
                "crop_size, if the model was trained so."
            )


def _exact(step: Step) -> tuple[int, int]:
    if not isinstance(step, Resize | CentreCrop):  # pragma: no cover - no rule makes another
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
    """Below 384: resize to size / crop_pct and crop; from there on squeeze to a square."""
    if set(size) != {"shortest_edge"}:
        raise BuildRefused(f"{_FILE} has size {dict(size)}; ConvNext's has shortest_edge alone.")
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
        raise BuildRefused(f"{_FILE} has crop_pct {crop_pct!r}: state a fraction such as 0.875.")
    return int(size / crop_pct)


def _size(values: Mapping[str, Any], processor: Processor) -> Size:
    square = values.get("default_to_square", processor.square)
    return _size_of("size", values["size"], bool(square))


def _size_of(key: str, value: Any, square: bool) -> Size:
    """Return a size as a mapping; one number is a square or the shorter edge, by the class."""
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
        f"{_FILE} has {key} {value!r}, which is no step of a spec: height and width, or "
        "shortest_edge alone, are."
    )


def _sides(key: str, size: Size) -> tuple[int, int]:
    if set(size) != {"height", "width"}:
        raise BuildRefused(f"{_FILE} has {key} {dict(size)}: state height and width.")
    return size["height"], size["width"]


def _filter(resample: Any, backend: ResizeBackend) -> Filter:
    name = PILLOW_FILTERS.get(resample) if isinstance(resample, int) else None
    if name is None:
        raise BuildRefused(f"{_FILE} has resample {resample!r}: Pillow's filters are 0 to 5.")
    if backend == "torch" and name not in TORCH_FILTERS:
        raise BuildRefused(
            f"{_FILE} resizes tensors with {name}, which cannot be served; "
            f"{' or '.join(TORCH_FILTERS)} can."
        )
    return name


def _arithmetic(
    values: Mapping[str, Any], family: Family
) -> tuple[float, tuple[float, float, float], tuple[float, float, float]]:
    """Return scale, mean and std of rescaling and normalising, as one (x · scale − mean) / std."""
    # MobileViT's processor takes do_normalize and never normalises.
    normalises = bool(values["do_normalize"]) and family != "mobilevit"
    if not values["do_rescale"] and not normalises:
        raise BuildRefused(f"{_FILE} neither rescales nor normalises: the network takes floats.")
    scale = float(values["rescale_factor"]) if values["do_rescale"] else 1.0
    shift = 1.0 if values["do_rescale"] and values.get("rescale_offset") else 0.0
    mean, std = (shift,) * 3, (1.0,) * 3
    if normalises:
        given = three(_FILE, "image_mean", values["image_mean"])
        mean = (given[0] + shift, given[1] + shift, given[2] + shift)
        std = three(_FILE, "image_std", values["image_std"])
    if values.get("include_top"):  # EfficientNet's, whose file's std was trained with twice
        again = three(_FILE, "image_std", values["image_std"])
        std = (std[0] * again[0], std[1] * again[1], std[2] * again[2])
    return scale, mean, std
