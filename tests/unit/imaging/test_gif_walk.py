"""The header check finds the same first frame of a GIF as Pillow, after any blocks."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from tests.unit.imaging.pictures import spec
from tidegate.service.errors import ImageTooLarge, UndecodableImage
from tidegate.service.imaging.formats import gif
from tidegate.service.imaging.preprocess import inspect_upload

SCREEN = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
PIXEL = b"\x02\x02\x44\x01\0"


def frame(width: int, height: int, left: int = 0, upper: int = 0) -> bytes:
    return b"," + struct.pack("<HHHHB", left, upper, width, height, 0) + PIXEL


def extension(label: int, *blocks: bytes) -> bytes:
    """Return an extension without its end."""
    return bytes((0x21, label)) + b"".join(bytes((len(block),)) + block for block in blocks)


sides = st.integers(0, 90)
frames = st.builds(frame, sides, sides, sides, sides)
content = st.one_of(
    st.just(b""),
    st.just(b"NETSCAPE2.0"),
    st.just(b"NETSCAPE2.0 and more"),
    st.just(b"\x09\0\0\0"),
    st.binary(max_size=12),
    frames,
)
extensions = st.builds(
    lambda label, blocks: extension(label, *blocks),
    st.sampled_from([0x00, 0x01, 0xF9, 0xFE, 0xFF]),
    st.lists(content, max_size=4),
)
streams = st.lists(
    st.one_of(extensions, frames, st.just(b"\0"), st.just(b"!"), st.binary(max_size=3)),
    max_size=12,
).map(b"".join)


def pillows_sizes(data: bytes) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the sizes of the canvas and of the first frame; None if Pillow raises."""
    try:
        with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
            left, upper, right, lower = image.tile[0].extents or (0, 0, 0, 0)
            return image.size, (right - left, lower - upper)
    except (UnidentifiedImageError, EOFError, SyntaxError, IndexError, struct.error):
        return None


@pytest.mark.lengthy
@given(stream=streams)
@settings(deadline=None, max_examples=2_000)
def test_the_sizes_are_those_that_pillow_finds(stream: bytes) -> None:
    data = SCREEN + stream

    expected = pillows_sizes(data)

    assert expected is None or gif.read(data).sizes == expected


HIDING = {
    "an empty extension": extension(0x01, b""),
    "an empty control": extension(0xF9, b""),
    "an empty application": extension(0xFF, b""),
    "an application without its loop": extension(0xFF, b"NETSCAPE2.0", b""),
}


@pytest.mark.parametrize("hiding", HIDING.values(), ids=list(HIDING))
def test_no_empty_block_hides_a_frame_from_the_check(hiding: bytes) -> None:
    decoy = frame(1, 1)
    # Pillow reads the comma as the length of a block, which ends where the control begins.
    hidden = decoy[1:].ljust(0x2C, b"\0") + b"\0"
    control = extension(0xF9, b"\x09\0\0\0", b"")
    data = SCREEN + hiding + b"," + hidden + control + frame(65_535, 65_535) + b";"

    with pytest.raises(ImageTooLarge, match="65535 × 65535"):
        inspect_upload(data, spec(), 25_000_000)  # before Pillow allocates the frame


@pytest.mark.parametrize("label", [0xF9, 0xFE, 0xFF])
def test_an_extension_without_end_is_no_image(label: int) -> None:
    for data in (SCREEN + extension(label), SCREEN + extension(label, b"NETSCAPE2.0"), SCREEN):
        with pytest.raises(UndecodableImage):
            inspect_upload(data, spec(), 25_000_000)
