"""Truncated, flipped and spliced files give pixels or one of three errors, and nothing else.

Seeded, so that a failure can be reproduced; the seeds identify the file and the damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from tests.unit.imaging.pictures import FORMATS, encode, encode_any, noise, spec
from tidegate.service.errors import ImageTooLarge, UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.preprocess import preprocess

RULES = spec(alpha="composite-white")
BOUND = 1_000_000
# pytest's filters take precedence over the one that decode.py sets, so this is needed here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

Damage = Callable[[bytes, np.random.Generator], bytes]


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for at in rng.integers(len(data), size=rng.integers(1, 6)):
        damaged[at] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def rewrite_header(data: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for at in rng.integers(min(len(data), 120), size=rng.integers(1, 4)):
        damaged[at] = int(rng.integers(256))
    return bytes(damaged)


def insert_noise(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + rng.bytes(int(rng.integers(1, 9))) + data[at:]


def remove_a_piece(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(int(at) for at in rng.integers(len(data), size=2))
    return data[:start] + data[stop:]


def splice_into_itself(data: bytes, rng: np.random.Generator) -> bytes:
    first, second = (int(at) for at in rng.integers(len(data), size=2))
    return data[:first] + data[second:]


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    rewrite_header,
    insert_noise,
    remove_a_piece,
    splice_into_itself,
)


def variants(format: str) -> Iterator[bytes]:
    """Yield files of one format in several modes, encodings and with metadata."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Tidegate"
    image = noise(37, 23)
    yield encode_any(image, format)
    options: dict[str, list[tuple[str, dict[str, object]]]] = {
        "JPEG": [("RGB", {"progressive": True, "exif": exif}), ("CMYK", {}), ("L", {})],
        "PNG": [("RGBA", {"exif": exif}), ("P", {"transparency": 3}), ("1", {}), ("LA", {})],
        "WEBP": [("RGBA", {"exif": exif}), ("RGB", {"lossless": False})],
        "BMP": [("P", {}), ("1", {}), ("L", {})],
        "GIF": [("P", {"transparency": 3, "interlace": 1}), ("1", {}), ("L", {"save_all": True})],
        "TIFF": [
            ("RGB", {"compression": "tiff_lzw", "exif": exif}),
            ("RGBA", {"compression": "tiff_adobe_deflate"}),
            ("1", {"compression": "group4"}),
            ("RGB", {"compression": "jpeg"}),
            ("CMYK", {"compression": "packbits"}),
        ],
    }
    for mode, extra in options[format]:
        yield encode(image.convert(mode), format, **extra)


def outcome(data: bytes) -> str:
    """Return a file's outcome; any other exception fails the test."""
    try:
        pixels = preprocess(data, RULES, BOUND)
    except (UndecodableImage, UnsupportedImageType, ImageTooLarge) as error:
        return type(error).__name__
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
    return "pixels"


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_cut_anywhere_gives_pixels_or_an_error(format: str) -> None:
    for data in variants(format):
        cuts = {*range(40), *np.linspace(40, len(data) - 1, 60).astype(int).tolist()}
        outcomes = {cut: outcome(data[:cut]) for cut in sorted(cuts)}

        assert outcomes[0] == "UnsupportedImageType"
        assert "UndecodableImage" in outcomes.values()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_half_a_file_is_undecodable(format: str) -> None:
    data = encode_any(noise(64, 48), format)

    assert outcome(data) == "pixels"
    assert outcome(data[: len(data) // 2]) == "UndecodableImage"


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_gives_pixels_or_an_error(format: str, damage: Damage) -> None:
    rng = np.random.default_rng([FORMATS.index(format), DAMAGES.index(damage)])

    outcomes = [outcome(damage(data, rng)) for data in variants(format) for _ in range(60)]

    assert {"pixels", "UndecodableImage"} & set(outcomes)


@pytest.mark.parametrize("format", FORMATS)
def test_noise_after_a_signature_gives_pixels_or_an_error(format: str) -> None:
    signature = encode_any(noise(5, 4), format)[:12]
    rng = np.random.default_rng(5)

    for length in range(0, 200, 3):
        assert outcome(signature + rng.bytes(length)) != "UnsupportedImageType"


@pytest.mark.parametrize("compression", [1, 2])
def test_a_run_length_encoded_bmp_is_rejected(compression: int) -> None:
    encoded = bytearray(encode(Image.new("P", (64, 64)), "BMP"))
    encoded[30] = compression

    with pytest.raises(UnsupportedImageType, match="Run-length"):
        preprocess(bytes(encoded), RULES, BOUND)
