"""Keras's preprocessing: `keras.utils.load_img`, then `imagenet_utils.preprocess_input`.

load_img opens the file with Pillow, ignores EXIF, converts to RGB (alpha dropped, 16 bits
clipped), and resizes with Pillow if the size differs: keras/src/utils/image_utils.py.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, field_validator

from tidegate.models.importers.base import Backend
from tidegate.models.importers.keras_runtime import require
from tidegate.service.imaging.spec import FILTERS, Closed, Filter, PreprocessSpec, Resize

Mode = Literal["caffe", "tf", "torch", "none"]
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)
_NONE, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_SCALING: dict[Mode, dict[str, Any]] = {
    "caffe": {"channel_order": "bgr", "scale": 1.0, "mean": _CAFFE_MEAN, "std": _ONE},
    "tf": {"channel_order": "rgb", "scale": 1 / 127.5, "mean": _ONE, "std": _ONE},
    "torch": {"channel_order": "rgb", "scale": 1 / 255, "mean": _TORCH_MEAN, "std": _TORCH_STD},
    "none": {"channel_order": "rgb", "scale": 1.0, "mean": _NONE, "std": _ONE},
}


class KerasForm(Closed):
    """The arguments of load_img and preprocess_input in training.

    `interpolation` has no default: load_img's is "nearest", the data set loaders' "bilinear".
    Mode "none" is for a network that scales its pixels itself (EfficientNet, MobileNetV3, …).
    """

    loader: str = "load_img"
    target_size: tuple[PositiveInt, PositiveInt]  # (height, width)
    interpolation: Filter
    keep_aspect_ratio: bool = False
    mode: Mode

    @field_validator("loader")
    @classmethod
    def _gives_whole_pixels(cls, loader: str) -> str:
        if loader != "load_img":
            raise ValueError(
                f"{loader!r} is not supported: only load_img returns integer pixel values. "
                "image_dataset_from_directory, tf.image.resize and Resizing layers return "
                "fractional values without antialiasing; train or fine-tune on images resized by "
                "load_img"
            )
        return loader

    @field_validator("interpolation")
    @classmethod
    def _is_pillows(cls, filter: Filter) -> Filter:
        if filter not in FILTERS["pillow"]:
            raise ValueError(f"load_img has {', '.join(FILTERS['pillow'])}, not {filter}")
        return filter

    @field_validator("keep_aspect_ratio")
    @classmethod
    def _is_off(cls, kept: bool) -> bool:
        if kept:
            raise ValueError(
                "true is not supported: load_img then resizes from a box, a step that "
                "PreprocessSpec lacks; crop the images before training, or use false"
            )
        return kept


def translate(form: KerasForm) -> PreprocessSpec:
    """Return the spec that equals Keras's preprocessing with these arguments."""
    height, width = form.target_size
    return PreprocessSpec(
        exif_orientation="ignore",
        alpha="drop",
        sixteen_bit="clip",
        steps=(Resize(height=height, width=width, filter=form.interpolation),),
        **_SCALING[form.mode],
    )


def transform(form: KerasForm) -> KerasTransform:
    """Return Keras's own preprocessing. Raises BuildRefused if Keras is not installed."""
    return KerasTransform(form, f"keras {require('keras').__version__}")


@dataclass(frozen=True)
class KerasTransform:
    """A `SourceTransform`: Keras's own load_img and preprocess_input."""

    form: KerasForm
    library: str
    backend: Backend = "pillow"

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Return the file's image after load_img, in the network's order: BGR in mode "caffe"."""
        pixels = np.asarray(self._image(file))
        return np.ascontiguousarray(pixels[..., ::-1]) if self.form.mode == "caffe" else pixels

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return the network's input, float32 [3, H, W]."""
        keras = require("keras")
        floats = keras.utils.img_to_array(
            self._image(file), data_format="channels_last", dtype="float32"
        )
        if self.form.mode != "none":
            floats = keras.applications.imagenet_utils.preprocess_input(
                floats, data_format="channels_last", mode=self.form.mode
            )
        return np.ascontiguousarray(np.asarray(floats, np.float32).transpose(2, 0, 1))

    def _image(self, file: bytes) -> Any:
        return require("keras").utils.load_img(
            io.BytesIO(file),
            color_mode="rgb",
            target_size=self.form.target_size,
            interpolation=self.form.interpolation,
        )
