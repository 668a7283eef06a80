"""Keras's preprocessing: `keras.utils.load_img`, then `imagenet_utils.preprocess_input`.

load_img opens the file with Pillow, ignores EXIF, converts to RGB (alpha dropped, 16 bits
clipped), and resizes with Pillow unless the size is right already: keras/src/utils/image_utils.py.
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
from tidegate.service.imaging.spec import Closed, Filter, PreprocessSpec, Resize

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
    """The arguments that training gave to load_img and to preprocess_input.

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
                f"{loader!r} cannot be served: only load_img gives whole pixel values. "
                "image_dataset_from_directory, tf.image.resize and Resizing layers give fractions "
                "of them, without antialiasing, and pixels here are whole; train or fine-tune on "
                "images resized by load_img"
            )
        return loader

    @field_validator("keep_aspect_ratio")
    @classmethod
    def _is_off(cls, kept: bool) -> bool:
        if kept:
            raise ValueError(
                "true cannot be served: load_img then resizes out of a box, a step that no "
                "PreprocessSpec has; crop the images before training, or state false"
            )
        return kept


def translate(form: KerasForm) -> PreprocessSpec:
    """Return the spec that does what Keras does with these arguments."""
    height, width = form.target_size
    return PreprocessSpec(
        exif_orientation="ignore",
        alpha="drop",
        sixteen_bit="clip",
        steps=(Resize(height=height, width=width, filter=form.interpolation),),
        **_SCALING[form.mode],
    )


def transform(form: KerasForm) -> KerasTransform:
    """Return Keras's own preprocessing. Raises BuildRefused when Keras is not installed."""
    return KerasTransform(form, f"keras {require('keras').__version__}")


@dataclass(frozen=True)
class KerasTransform:
    """load_img and preprocess_input as Keras runs them: a `SourceTransform`."""

    form: KerasForm
    library: str
    backend: Backend = "pillow"

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Return the file's image after load_img, in the order the network takes: BGR in caffe."""
        pixels = np.asarray(self._image(file))
        return np.ascontiguousarray(pixels[..., ::-1]) if self.form.mode == "caffe" else pixels

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return what the network is given, float32 [3, H, W]."""
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
