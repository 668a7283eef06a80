"""Translate a described chain of torchvision transforms to a PreprocessSpec. Pure: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import Backend
from tidegate.models.importers.spec_rules import PILLOW_CONVERT, TORCH_FILTERS, spec
from tidegate.service.imaging.spec import (
    FILTERS,
    CentreCrop,
    Filter,
    Grey,
    PreprocessSpec,
    Resize,
    ResizeShortestEdge,
    Step,
)

API = Literal["v1", "v2"]  # torchvision.transforms and torchvision.transforms.v2
Triple = tuple[float, float, float]
_FILTERS = FILTERS["pillow"]


@dataclass(frozen=True, slots=True)
class Resizing:
    """`Resize`; `size` is one number for the shorter edge or (height, width)."""

    size: tuple[int, ...]
    interpolation: str
    antialias: bool | None
    max_size: int | None
    api: API


@dataclass(frozen=True, slots=True)
class Cropping:
    """`CenterCrop` to (height, width)."""

    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Greying:
    """`Grayscale` with this number of equal channels."""

    channels: int


@dataclass(frozen=True, slots=True)
class ToBytes:
    """`PILToTensor`, `ToImage`, or a dtype of uint8: a tensor of the unchanged pixel values."""

    takes_images: bool  # a dtype conversion leaves an image unchanged


@dataclass(frozen=True, slots=True)
class ToFloats:
    """`ToTensor`, `ConvertImageDtype`, `ToDtype`: to float32, times `scale`."""

    scale: float
    takes_images: bool  # only ToTensor; the others need a tensor


@dataclass(frozen=True, slots=True)
class Normalising:
    """`Normalize`."""

    mean: Triple
    std: Triple


Stage = Resizing | Cropping | Greying | ToBytes | ToFloats | Normalising


@dataclass(frozen=True, slots=True)
class Translation:
    """A spec, its resize backend, and the number of stages before the conversion to floats."""

    spec: PreprocessSpec
    backend: Backend
    to_pixels: int


def translate(stages: Sequence[Stage]) -> Translation:
    """Return the spec of stages run on an RGB Pillow image.

    Pillow resizes before the conversion to a tensor, torch after it.
    Raises BuildRefused with the transform that has no exact translation, and a remedy.
    """
    floats = [index for index, stage in enumerate(stages) if isinstance(stage, ToFloats)]
    if not floats:
        raise BuildRefused(
            "The transforms never convert to floats: end them with ToTensor(), or ToImage() and "
            "ToDtype(torch.float32, scale=True), and Normalize."
        )
    cut = floats[0]
    before, after = stages[:cut], stages[cut:]
    steps, backend, is_tensor = _steps(before)
    scale, mean, std = _arithmetic(after, is_tensor)
    return Translation(
        spec(
            "The torchvision transforms",
            **PILLOW_CONVERT,
            steps=steps,
            channel_order="rgb",
            scale=scale,
            mean=mean,
            std=std,
        ),
        backend,
        cut,
    )


def _steps(stages: Sequence[Stage]) -> tuple[tuple[Step, ...], Backend, bool]:
    """Return the steps before the floats, the resize backend, and whether they give a tensor."""
    steps: list[Step] = []
    is_tensor = False
    backend: Backend | None = None
    for stage in stages:
        match stage:
            case ToBytes():
                is_tensor |= stage.takes_images
            case Resizing():
                backend = "torch" if is_tensor else "pillow"
                steps.append(_resize(stage, backend))
            case Cropping():
                height, width = stage.size
                steps.append(CentreCrop(height=height, width=width, offset="half-even"))
            case Greying():
                steps.append(_grey(stage, is_tensor))
            case _:
                raise BuildRefused(
                    "Normalize comes before the conversion to floats: put ToTensor() or "
                    "ToDtype(torch.float32, scale=True) before it."
                )
    return tuple(steps), backend or "pillow", is_tensor


def _grey(stage: Greying, is_tensor: bool) -> Step:
    if is_tensor:  # computed in floats, and truncated
        raise BuildRefused(
            "Grayscale of a tensor is not supported: put it before ToTensor(), PILToTensor() or "
            "ToImage(), if it was there in training."
        )
    if stage.channels != 3:
        raise BuildRefused(
            "Grayscale(1) is for a network with one channel: export it to ONNX and import that "
            "with --spec; or give Grayscale(3), if the network takes three."
        )
    return Grey(backend="pillow")


def _resize(stage: Resizing, backend: Literal["pillow", "torch"]) -> Step:
    if stage.max_size is not None:
        raise BuildRefused(
            f"Resize(max_size={stage.max_size}) is not supported: remove max_size, or resize to an "
            "exact (height, width)."
        )
    if backend == "torch":
        _check_tensor_resize(stage)
    filter = _filter(stage.interpolation)
    if len(stage.size) == 1:
        return ResizeShortestEdge(
            size=stage.size[0], rounding="truncate", filter=filter, backend=backend
        )
    height, width = stage.size
    return Resize(height=height, width=width, filter=filter, backend=backend)


def _check_tensor_resize(stage: Resizing) -> None:
    if stage.api == "v1":
        # v1 uses another kernel than v2, through float32; about one value in six differs.
        raise BuildRefused(
            "torchvision.transforms.Resize of a tensor is not supported, as its rounding cannot be "
            "reproduced: resize the image before ToTensor(), or use torchvision.transforms.v2 if "
            "it was used in training."
        )
    if stage.interpolation not in TORCH_FILTERS:
        raise BuildRefused(
            f"Resize of a tensor with {stage.interpolation} is not supported; use "
            f"{' or '.join(TORCH_FILTERS)}."
        )
    if stage.antialias is not True:
        raise BuildRefused(
            f"Resize(antialias={stage.antialias}) of a tensor is not supported. Use antialias=True "
            "if it was used in training."
        )


def _filter(name: str) -> Filter:
    for known in _FILTERS:
        if name == known:
            return known
    raise BuildRefused(f"Resize with {name} is not supported; use one of {', '.join(_FILTERS)}.")


def _arithmetic(stages: Sequence[Stage], is_tensor: bool) -> tuple[float, Triple, Triple]:
    """Return scale, mean and std of the stages from the floats on: at most one Normalize."""
    first, *rest = stages
    if not isinstance(first, ToFloats):  # pragma: no cover - `translate` splits there
        raise AssertionError("the stages do not begin with floats")
    if not first.takes_images and not is_tensor:
        raise BuildRefused(
            "The transforms convert the dtype of a Pillow image, which has no effect: put "
            "ToImage() or PILToTensor() before ToDtype or ConvertImageDtype."
        )
    if first.takes_images and is_tensor:
        raise BuildRefused(
            "ToTensor() does not accept a tensor: use ToDtype(torch.float32, scale=True)."
        )
    match rest:
        case []:
            return first.scale, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        case [Normalising(mean, std)]:
            return first.scale, mean, std
    late = next((stage for stage in rest if isinstance(stage, Resizing | Cropping)), None)
    if late is not None:
        name = "Resize" if isinstance(late, Resizing) else "CenterCrop"
        raise BuildRefused(
            f"{name} after the conversion to floats is not supported: put {name} before it, if the "
            "model was trained so."
        )
    raise BuildRefused("After the conversion to floats, only one Normalize is supported.")
