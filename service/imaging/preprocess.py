"""Preprocess an encoded image to the pixels of one row of a batch. The only implementation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging import cv2_resize, pillow_resize, torch_resize
from tidegate.service.imaging.decode import Size, decode_source
from tidegate.service.imaging.geometry import Box, Cut, Luminance, Scale, plan, steps
from tidegate.service.imaging.grey import replicated
from tidegate.service.imaging.header import Header, SizeCheck, inspect
from tidegate.service.imaging.jpeg import Source, as_image, size_of
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.imaging.work import max_work_s
from tidegate.service.types import Pixels

# A resize computes weights for every source pixel of a side: 24 million took 7 s with backend torch
# and 870 MB with Pillow, for a small file. A JPEG's side has at most 65,535 pixels.
MAX_RESIZED_SIDE = 1 << 18
_REMEMBERED_SIZES = 1024  # few clients send more: a camera has one or two


def preprocess(
    data: bytes, spec: PreprocessSpec, max_image_pixels: int, header: Header | None = None
) -> Pixels:
    """Decode `data` and apply `spec`, except scale, mean and std, which the graph applies.

    `header` is the result of `inspect_upload`, if it was called. Returns uint8 [H, W, 3]. Raises
    ImageTooLarge, before pixels are decoded, if the image or the result of any step exceeds
    `max_image_pixels`, or decoding would take too much work for that limit; UnsupportedImageType;
    UndecodableImage.
    """

    check_size = size_check(spec, max_image_pixels)
    limit_s = max_work_s(max_image_pixels)
    return apply(decode_source(data, spec, check_size, limit_s, header, partial(_used, spec)), spec)


def inspect_upload(data: bytes, spec: PreprocessSpec, max_image_pixels: int) -> Header:
    """Return an image's kind, size and cost. Raises what `preprocess` would raise for them."""
    return inspect(data, size_check(spec, max_image_pixels), max_work_s(max_image_pixels))


def inspector(spec: PreprocessSpec, max_image_pixels: int) -> Callable[[bytes], Header]:
    """Return `inspect_upload` for one spec, which remembers the sizes that it has accepted."""
    check_size = lru_cache(_REMEMBERED_SIZES)(size_check(spec, max_image_pixels))
    return partial(inspect, check_size=check_size, limit_s=max_work_s(max_image_pixels))


def size_check(spec: PreprocessSpec, max_image_pixels: int) -> SizeCheck:
    """Return a check that raises ImageTooLarge if a size, or a step's result, exceeds the limit."""

    def check_size(size: Size) -> None:
        _check_pixels(size, spec, max_image_pixels)

    return check_size


def apply(source: Source, spec: PreprocessSpec) -> Pixels:
    """Apply the spec's steps to an upright RGB image; return uint8 [H, W, 3]."""
    pixels: NDArray[np.uint8] | None = None  # the last step's result; None if it is in `source`
    for operation in plan(spec, size_of(source)):
        if pixels is not None:
            source, pixels = Image.fromarray(pixels), None
        if isinstance(operation, Cut):
            source = _cut(as_image(source), operation)
        else:
            pixels = _computed(source, operation)
    if pixels is None:
        pixels = np.asarray(as_image(source))
    if spec.channel_order == "bgr":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return Pixels(pixels)


def _used(spec: PreprocessSpec, size: Size) -> Box | None:
    """Return the part of an upright image of `size` that `apply` reads; None if it reads all."""
    first = next(iter(plan(spec, size)), None)
    return pillow_resize.reads(first, size) if isinstance(first, Scale) else None


def _computed(source: Source, operation: Scale | Luminance) -> NDArray[np.uint8]:
    if isinstance(operation, Luminance):
        return replicated(np.asarray(as_image(source)), operation.backend)
    if operation.backend == "pillow":
        return pillow_resize.resize(source, operation)
    return _by_arrays(as_image(source), operation)


def _cut(image: Image.Image, to: Cut) -> Image.Image:
    left, upper, right, lower = to.box
    is_inside = left >= 0 and upper >= 0 and right <= image.width and lower <= image.height
    if is_inside or to.outside == (0, 0, 0):
        return image.crop(to.box)
    canvas = Image.new("RGB", to.size, to.outside)
    canvas.paste(image, (-left, -upper))
    return canvas


def _by_arrays(image: Image.Image, to: Scale) -> NDArray[np.uint8]:
    """Resize with the backend torch or cv2."""
    source = image if to.source is None else image.crop(to.source)
    window = to.window or (0, 0, *to.size)
    resize = torch_resize.resize if to.backend == "torch" else cv2_resize.resize
    return resize(np.asarray(source), to.size, to.filter, window)


def _check_pixels(size: Size, spec: PreprocessSpec, max_image_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ValueError("an image without pixels")  # decode reports it as undecodable
    if width * height > max_image_pixels:
        raise ImageTooLarge(
            f"The image is {width} × {height} pixels; the limit is {max_image_pixels:,} pixels."
        )
    for made in _sizes_on_the_way(spec, size):
        if made[0] * made[1] > max_image_pixels:
            raise ImageTooLarge(
                f"An image of {width} × {height} pixels is too narrow: "
                f"preprocessing would enlarge it to {made[0]} × {made[1]}."
            )


def _sizes_on_the_way(spec: PreprocessSpec, size: Size) -> Iterator[Size]:
    """Yield the sizes of all intermediate results of preprocessing an image of `size`.

    Raises ImageTooLarge if a side longer than MAX_RESIZED_SIDE would be resized.
    """
    for operation in steps(spec, size):
        if isinstance(operation, Scale):
            if max(size) > MAX_RESIZED_SIDE:
                raise ImageTooLarge(
                    f"An image of {size[0]} × {size[1]} pixels is too narrow: "
                    f"a side may have at most {MAX_RESIZED_SIDE:,} pixels."
                )
            if operation.backend == "torch":
                # The horizontal pass comes first and widens every row, even a million of them.
                yield operation.size[0], size[1]
        size = operation.size
        yield size
