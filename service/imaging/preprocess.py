"""An encoded image to the pixels of one row of a batch: the one implementation there is."""

from __future__ import annotations

import numpy as np
from PIL import Image

from service.errors import ImageTooLarge
from service.imaging.decode import Size, decode
from service.imaging.geometry import Cut, plan
from service.imaging.spec import PreprocessSpec
from service.types import Pixels

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def preprocess(data: bytes, spec: PreprocessSpec, max_image_pixels: int) -> Pixels:
    """Decode `data` and apply `spec` up to, not including, scale, mean and std.

    Returns uint8 [H, W, 3]. Raises ImageTooLarge from the header alone, before pixels are decoded,
    when the image or any step on its way has more than `max_image_pixels`; UnsupportedImageType;
    UndecodableImage.
    """

    def check_size(size: Size) -> None:
        _check_pixels(size, spec, max_image_pixels)

    return apply(decode(data, spec, check_size), spec)


def apply(image: Image.Image, spec: PreprocessSpec) -> Pixels:
    """Apply the spec's steps to an upright RGB image; returns uint8 [H, W, 3]."""
    for operation in plan(spec, image.size):
        if isinstance(operation, Cut):
            image = image.crop(operation.box)
        else:
            image = image.resize(operation.size, _RESAMPLING[operation.filter])
    pixels = np.asarray(image)
    if spec.channel_order == "bgr":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return Pixels(pixels)


def _check_pixels(size: Size, spec: PreprocessSpec, max_image_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ValueError("an image without pixels")  # decode reports it as undecodable
    if width * height > max_image_pixels:
        raise ImageTooLarge(
            f"The image is {width} × {height} pixels; at most {max_image_pixels:,} are decoded."
        )
    for operation in plan(spec, size):
        if operation.size[0] * operation.size[1] > max_image_pixels:
            raise ImageTooLarge(
                f"An image of {width} × {height} pixels is too narrow: "
                f"preprocessing would make it {operation.size[0]} × {operation.size[1]}."
            )
