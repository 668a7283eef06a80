"""Every mode is converted to RGB by the spec's rules, checked sample by sample."""

from __future__ import annotations

import io
import struct
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.unit.imaging.pictures import (
    decoded,
    encode,
    noise,
    png,
    png_rows,
    preprocessed,
    spec,
)
from tidegate.service.errors import UnsupportedImageType

Array = NDArray[np.uint8]
GROUNDS = {"composite-white": 255, "composite-black": 0}
RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (7, 9), np.uint8)
COLOUR = np.asarray(noise(9, 7))
ALPHA = np.resize(np.array([0, 255, 128, 1, 254], np.uint8), (7, 9))


def grey_rgb(values: NDArray[np.integer]) -> Array:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def over(ground: int, colour: NDArray[np.uint8], alpha: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The textbook formula, colour·α + ground·(1 − α), unrounded."""
    share = alpha[..., None].astype(np.float64) / 255
    return colour * share + ground * (1 - share)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_bilevel_pixels_become_black_and_white(format: str) -> None:
    bits = GREY > 127

    assert np.array_equal(
        decoded(encode(Image.fromarray(bits), format)), grey_rgb(np.where(bits, 255, 0))
    )


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_grey_is_replicated(format: str) -> None:
    assert np.array_equal(decoded(encode(Image.fromarray(GREY), format)), grey_rgb(GREY))


def test_a_grey_jpeg_is_replicated() -> None:
    data = encode(Image.fromarray(GREY), "JPEG")

    result = decoded(data)

    assert np.array_equal(result, grey_rgb(result[..., 0]))
    assert np.array_equal(result[..., 0], np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "TIFF"])
def test_colour_comes_through_unchanged(format: str) -> None:
    assert np.array_equal(decoded(encode(noise(9, 7), format)), COLOUR)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
def test_a_palette_is_expanded(format: str) -> None:
    image = Image.fromarray(GREY % 5).convert("P")
    palette = RNG.integers(0, 256, (5, 3), np.uint8)
    image.putpalette(palette.tobytes())

    assert np.array_equal(decoded(encode(image, format)), palette[GREY % 5])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_as_pillow_decodes_it(subsampling: str, progressive: bool) -> None:
    data = encode(noise(33, 21), "JPEG", subsampling=subsampling, progressive=progressive)

    assert np.array_equal(decoded(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted_as_pillow_converts_it(format: str) -> None:
    data = encode(noise(9, 7).convert("CMYK"), format)

    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "CMYK"
        assert np.array_equal(decoded(data), np.asarray(image.convert("RGB")))


class TestTransparency:
    """`drop` keeps the hidden colour; the composites blend it with white or black."""

    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
    def test_dropped_alpha_leaves_the_colour(self, format: str) -> None:
        image = Image.fromarray(np.dstack([COLOUR, ALPHA]))

        data = encode(image, format, **({"exact": True} if format == "WEBP" else {}))

        assert np.array_equal(decoded(data), COLOUR)

    @pytest.mark.parametrize("rule", GROUNDS)
    @pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
    def test_colour_is_laid_on_the_ground(self, format: str, rule: str) -> None:
        image = Image.fromarray(np.dstack([COLOUR, ALPHA]))

        result = decoded(encode(image, format), spec(alpha=rule))

        # Tolerance of one level: Pillow composites in integers.
        assert np.abs(result - over(GROUNDS[rule], COLOUR, ALPHA)).max() <= 1

    def test_dropped_alpha_leaves_the_grey(self) -> None:
        image = Image.fromarray(np.dstack([GREY, ALPHA]))

        assert np.array_equal(decoded(encode(image, "PNG")), grey_rgb(GREY))

    @pytest.mark.parametrize("rule", GROUNDS)
    def test_grey_is_laid_on_the_ground(self, rule: str) -> None:
        image = Image.fromarray(np.dstack([GREY, ALPHA]))

        result = decoded(encode(image, "PNG"), spec(alpha=rule))

        assert np.abs(result - over(GROUNDS[rule], grey_rgb(GREY), ALPHA)).max() <= 1

    @pytest.mark.parametrize(
        ("alpha", "colour"),
        [("drop", (10, 20, 30)), ("composite-white", (255,) * 3), ("composite-black", (0,) * 3)],
    )
    @pytest.mark.parametrize("format", ["PNG", "GIF"])
    def test_a_transparent_palette_entry_follows_the_rule(
        self, format: str, alpha: str, colour: tuple[int, int, int]
    ) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60])

        result = decoded(encode(image, format, transparency=0), spec(alpha=alpha))

        assert result.tolist() == [[list(colour), [40, 50, 60]]]

    @pytest.mark.parametrize(
        ("alpha", "first"), [("drop", 200), ("composite-white", 228), ("composite-black", 100)]
    )
    def test_a_half_transparent_palette_entry_follows_the_rule(
        self, alpha: str, first: int
    ) -> None:
        image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        image.putpalette([200, 200, 200, 40, 50, 60])

        result = decoded(encode(image, "PNG", transparency=b"\x80\xff"), spec(alpha=alpha))

        assert np.abs(result[0, 0].astype(int) - first).max() <= 1
        assert result[0, 1].tolist() == [40, 50, 60]

    @pytest.mark.parametrize(
        ("alpha", "colour"),
        [("drop", (10, 20, 30)), ("composite-white", (255,) * 3), ("composite-black", (0,) * 3)],
    )
    def test_a_transparent_colour_of_an_rgb_png_follows_the_rule(
        self, alpha: str, colour: tuple[int, int, int]
    ) -> None:
        image = Image.fromarray(np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8))

        result = decoded(encode(image, "PNG", transparency=(10, 20, 30)), spec(alpha=alpha))

        assert result.tolist() == [[list(colour), [40, 50, 60]]]

    @pytest.mark.parametrize(
        ("alpha", "first"), [("drop", 9), ("composite-white", 255), ("composite-black", 0)]
    )
    def test_a_transparent_shade_of_a_grey_png_follows_the_rule(
        self, alpha: str, first: int
    ) -> None:
        image = Image.fromarray(np.array([[9, 99]], np.uint8))

        result = decoded(encode(image, "PNG", transparency=9), spec(alpha=alpha))

        assert result[0, :, 0].tolist() == [first, 99]


class TestSixteenBits:
    """`scale` keeps the high byte; `clip` equals Pillow's plain `convert` of grey."""

    DEEP = RNG.integers(0, 65536, (7, 9), np.uint16)

    @pytest.fixture(params=["PNG", "TIFF", "big-endian TIFF"])
    def grey(self, request: pytest.FixtureRequest) -> bytes:
        if request.param == "PNG":
            return png((9, 7), 16, 0, png_rows(self.DEEP))
        if request.param == "TIFF":
            return encode(Image.fromarray(self.DEEP), "TIFF")
        big = Image.frombytes("I;16B", (9, 7), self.DEEP.astype(">u2").tobytes())
        return encode(big, "TIFF")

    def test_scaled_grey_keeps_the_high_byte(self, grey: bytes) -> None:
        assert np.array_equal(decoded(grey, spec(sixteen_bit="scale")), grey_rgb(self.DEEP >> 8))

    def test_clipped_grey_saturates(self, grey: bytes) -> None:
        expected = grey_rgb(np.minimum(self.DEEP, 255))

        assert np.array_equal(decoded(grey, spec(sixteen_bit="clip")), expected)

    @pytest.mark.parametrize(
        ("alpha", "first"), [("drop", 1), ("composite-white", 255), ("composite-black", 0)]
    )
    @pytest.mark.parametrize("rows", [1, 40_000], ids=["whole", "in bands"])
    def test_a_transparent_shade_follows_the_rule(
        self, alpha: Literal["drop", "composite-white", "composite-black"], first: int, rows: int
    ) -> None:
        deep = np.tile(np.array([[256, 257, 0, 60_000, 511, 512, 513, 1]], np.uint16), (rows, 1))
        data = encode(Image.fromarray(deep), "PNG", transparency=256)

        result = decoded(data, spec(alpha=alpha, sixteen_bit="scale"))

        expected = np.array([first, 1, 0, 234, 1, 2, 2, 0])
        assert np.array_equal(result, grey_rgb(np.tile(expected, (rows, 1))))

    @pytest.mark.parametrize("rule", ["scale", "clip"])
    def test_colour_keeps_the_high_byte_by_either_rule(
        self, rule: Literal["scale", "clip"]
    ) -> None:
        deep = RNG.integers(0, 65536, (7, 9, 3), np.uint16)

        result = decoded(png((9, 7), 16, 2, png_rows(deep)), spec(sixteen_bit=rule))

        assert np.array_equal(result, (deep >> 8).astype(np.uint8))

    def test_grey_with_alpha_keeps_the_high_byte(self) -> None:
        deep = RNG.integers(0, 65536, (7, 9, 2), np.uint16)

        result = decoded(png((9, 7), 16, 4, png_rows(deep)))

        assert np.array_equal(result, grey_rgb(deep[..., 0] >> 8))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_tiff_without_an_agreed_range_is_unsupported(dtype: type[np.generic]) -> None:
    data = encode(Image.fromarray(np.ones((7, 9), dtype)), "TIFF")

    with pytest.raises(UnsupportedImageType, match="8 or 16 bits"):
        preprocessed(data)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames_is_decoded(format: str) -> None:
    first, second = (Image.new("RGB", (9, 7), colour) for colour in ("red", "blue"))
    frames = encode(first, format, save_all=True, append_images=[second, second])

    with Image.open(io.BytesIO(frames)) as image:
        assert getattr(image, "n_frames", 1) > 1
    assert np.array_equal(decoded(frames), np.asarray(first))


def test_a_first_gif_frame_that_reaches_beyond_the_screen_is_shown_whole() -> None:
    whole = encode(Image.fromarray(GREY), "GIF")
    screen = whole[:6] + struct.pack("<HH", 1, 1) + whole[10:]

    assert np.array_equal(decoded(screen), grey_rgb(GREY))


def test_bgr_reverses_the_channels() -> None:
    data = encode(noise(20, 20), "PNG")

    bgr = preprocessed(data, spec(channel_order="bgr"))

    assert np.array_equal(bgr, preprocessed(data)[..., ::-1])
    assert bgr.flags.c_contiguous
