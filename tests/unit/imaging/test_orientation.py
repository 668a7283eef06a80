"""A photo is oriented as by Pillow's `exif_transpose`, and its upright size is checked."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.unit.imaging.pictures import (
    decoded,
    encode,
    noise,
    png,
    png_rows,
    preprocessed,
    resize,
    spec,
)
from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.decode import Size, decode

ORIENTATION = 0x0112
CARRIERS = ("JPEG", "PNG", "WEBP", "TIFF")
# pytest's filters take precedence over the one that decode.py sets, so this is needed here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def turned(orientation: int, format: str = "JPEG", size: Size = (9, 5)) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(noise(*size), format, exif=exif)


def exif_block(*tags: tuple[int, int, int, int]) -> bytes:
    """Return a raw EXIF block of (tag, type, count, value or offset)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + 16)


@pytest.mark.parametrize("format", CARRIERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_equals_pillow_s_transpose(format: str, orientation: int) -> None:
    data = turned(orientation, format)

    with Image.open(io.BytesIO(data)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(decoded(data), np.asarray(expected))


@pytest.mark.parametrize("format", CARRIERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_check_sees_the_upright_size(format: str, orientation: int) -> None:
    seen: list[Size] = []

    upright = decode(turned(orientation, format), spec(), seen.append)

    assert seen[-1] == upright.size == ((9, 5) if orientation < 5 else (5, 9))


def test_the_eight_orientations_differ() -> None:
    results = {decoded(turned(orientation, "PNG")).tobytes() for orientation in range(1, 9)}

    assert len(results) == 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_spec_may_ignore_the_orientation(format: str) -> None:
    as_stored = decoded(turned(1, format))

    assert np.array_equal(decoded(turned(6, format), spec(exif_orientation="ignore")), as_stored)


def test_an_orientation_after_a_png_s_pixels_counts_too() -> None:
    pixels = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    exif = exif_block((ORIENTATION, 3, 1, 6))[6:]

    data = png((5, 3), 8, 2, png_rows(pixels), late=[(b"eXIf", exif)])

    assert np.array_equal(decoded(data), np.rot90(pixels, -1))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(value: int) -> None:
    stored = encode(noise(9, 5), "JPEG")

    assert np.array_equal(decoded(turned(value)), decoded(stored))


BROKEN = {
    "empty": b"Exif\0\0",
    "noise": b"Exif\0\0" + bytes(range(60)),
    "cut in its header": b"Exif\0\0II*",
    "an offset behind the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "more tags than bytes": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "an orientation of text": exif_block((ORIENTATION, 2, 4, 0x00333231)),
    "three orientations": exif_block((ORIENTATION, 3, 3, 26)),
    "an unknown type": exif_block((ORIENTATION, 99, 1, 6)),
}


@pytest.mark.parametrize("exif", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_does_not_reject_valid_pixels(format: str, exif: bytes) -> None:
    data = encode(noise(9, 5), format, exif=exif)

    assert np.array_equal(decoded(data), decoded(encode(noise(9, 5), format)))


@pytest.mark.parametrize("kind", [5, 10, 12])
@pytest.mark.parametrize("tag", [0x010F, 0xA005])
def test_a_tag_of_the_wrong_type_does_not_keep_a_photo_from_being_turned(
    tag: int, kind: int
) -> None:
    data = encode(noise(9, 5), "JPEG", exif=exif_block((ORIENTATION, 3, 1, 6), (tag, kind, 1, 8)))

    assert np.array_equal(decoded(data), decoded(turned(6)))


def test_a_photo_is_rejected_by_its_upright_size() -> None:
    rules = spec(resize(224, 224, "bilinear") | {"backend": "torch"})
    wide = encode(noise(250_000, 1), "PNG")
    assert preprocessed(wide, rules).shape == (224, 224, 3)

    with pytest.raises(ImageTooLarge, match="1 × 250000 pixels is too narrow"):
        preprocessed(turned(6, "PNG", (250_000, 1)), rules)
