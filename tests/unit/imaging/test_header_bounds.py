"""A false size in the header is rejected from the header, before memory is allocated."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from tests.unit.imaging.pictures import (
    crop_fraction_then_resize,
    encode,
    noise,
    png,
    preprocessed,
    resize_then_crop,
    riff,
    tiff,
)
from tidegate.service.errors import ImageTooLarge, UndecodableImage
from tidegate.service.imaging.decode import Size, decode
from tidegate.service.imaging.preprocess import preprocess

SIDE = 30_000
ROOT = Path(__file__).parents[3]


def jpeg(width: int, height: int) -> bytes:
    """Return a small JPEG whose frame header claims another size."""
    data = encode(noise(16, 16), "JPEG")
    frame = data.index(b"\xff\xc0") + 5
    return data[:frame] + struct.pack(">HH", height, width) + data[frame + 4 :]


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    data = bytearray(encode(noise(4, 4).convert("P"), "GIF"))
    data[6:10] = struct.pack("<HH", *screen)
    descriptor = data.index(b",\0\0\0\0\x04\0\x04\0")
    data[descriptor + 5 : descriptor + 9] = struct.pack("<HH", *frame)
    return bytes(data)


def bmp(width: int, height: int, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 12, 0, 0, 54) + header + bytes(12)


def webp_extended(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    still = encode(noise(4, 4), "WEBP")[12:]
    size = int.from_bytes(still[4:8], "little")
    return riff((b"VP8X", canvas), (still[:4], still[8 : 8 + size]))


def webp_lossless(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return riff((b"VP8L", b"\x2f" + struct.pack("<I", bits) + bytes(20)))


def webp_lossy(width: int, height: int) -> bytes:
    data = bytearray(encode(noise(16, 16), "WEBP", lossless=False))
    start = data.index(b"\x9d\x01\x2a") + 3
    data[start : start + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def tiff_of(width: int, height: int) -> bytes:
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [8, 8, 8]), 259: (3, [1])}
    return tiff(tags | {262: (3, [2]), 273: (4, [8]), 277: (3, [3]), 278: (4, [1]), 279: (4, [9])})


def tiff_of_one_tile(side: int) -> bytes:
    """Return a 16 × 16 TIFF in one black tile of `side` × `side`, deflated to at most 1 MiB."""
    tile = zlib.compress(bytes(min(3 * side * side, 1 << 20)))
    tags = {256: (4, [16]), 257: (4, [16]), 258: (3, [8, 8, 8]), 259: (3, [8]), 262: (3, [2])}
    tags |= {277: (3, [3]), 322: (4, [side]), 323: (4, [side]), 325: (4, [len(tile)])}
    start = len(tiff(tags | {324: (4, [0])}))
    return tiff(tags | {324: (4, [start])}, tile)


HUGE = {
    "png": png((SIDE, SIDE), 8, 2),
    "png with ImageMagick's EXIF": png(
        (12_000, 12_000), 8, 2, bytes(1 << 26), [(b"tEXt", b"Raw profile type exif\0")]
    ),
    "interlaced png of one bit": png((SIDE, SIDE), 1, 0),
    "png as wide as can be": png((0x7FFFFFFF, 1), 8, 2),
    "jpeg": jpeg(SIDE, SIDE),
    "gif by its screen": gif((SIDE, SIDE), (4, 4)),
    "gif by its first frame": gif((4, 4), (SIDE, SIDE)),
    "bmp": bmp(SIDE, SIDE),
    "bmp from the top down": bmp(SIDE, -SIDE),
    "tiff": tiff_of(SIDE, SIDE),
    "tiff by its tiles": tiff_of_one_tile(SIDE),
    "webp by its canvas": webp_extended(1 << 24, 1 << 7),
    "lossless webp": webp_lossless(16_384, 16_384),
    "lossy webp": webp_lossy(16_383, 16_383),
}
EMPTY = {
    "png": png((0, 5), 8, 2),
    "jpeg": jpeg(0, 16),
    "bmp": bmp(0, 5),
    "tiff": tiff_of(5, 0),
    "lossy webp": webp_lossy(0, 16),
}


@pytest.mark.parametrize("data", HUGE.values(), ids=list(HUGE))
def test_a_size_beyond_the_limit_is_rejected(data: bytes) -> None:
    with pytest.raises(ImageTooLarge, match="the limit is 50,000,000 pixels"):
        preprocessed(data)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (webp_extended(5_000, 70_000), (5_000, 70_000)),
        (webp_lossless(16_384, 9), (16_384, 9)),
        (webp_lossless(9, 16_384), (9, 16_384)),
        (webp_lossy(16_383, 9), (16_383, 9)),
        (webp_lossy(9, 16_383), (9, 16_383)),
    ],
    ids=["canvas", "wide lossless", "high lossless", "wide lossy", "high lossy"],
)
def test_a_webp_s_canvas_is_known_before_pillow_opens_it(data: bytes, size: Size) -> None:
    def refuse(seen: Size) -> None:
        raise ImageTooLarge(f"{seen}")

    with pytest.raises(ImageTooLarge, match=re.escape(f"{size}")):
        decode(data, crop_fraction_then_resize(4), refuse)


@pytest.mark.parametrize("data", EMPTY.values(), ids=list(EMPTY))
def test_an_image_without_pixels_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableImage):
        preprocessed(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_the_bound_itself_is_allowed_and_one_pixel_more_is_not(format: str) -> None:
    data, rules = encode(noise(40, 25), format), crop_fraction_then_resize(4)

    assert preprocess(data, rules, 1000).shape == (4, 4, 3)
    with pytest.raises(ImageTooLarge, match="40 × 25"):
        preprocess(data, rules, 999)


def test_a_step_that_would_exceed_the_limit_is_rejected_from_the_header() -> None:
    never_decoded = png((1, 200_000), 8, 2)

    with pytest.raises(ImageTooLarge, match="too narrow: preprocessing would enlarge it to 256"):
        preprocessed(never_decoded, resize_then_crop(256, (224, 224)))


def test_a_side_that_would_need_too_many_weights_is_rejected_from_the_header() -> None:
    never_decoded = png((300_000, 1), 8, 2)

    with pytest.raises(ImageTooLarge, match="a side may have at most 262,144"):
        preprocessed(never_decoded, resize_then_crop(256, (224, 224)))


def test_a_small_image_in_a_large_tile_of_a_tiff_is_decoded() -> None:
    assert not preprocessed(tiff_of_one_tile(256)).any()


MEASURE = """
import sys
from pathlib import Path
from tidegate.service.errors import ImageTooLarge
from tests.unit.imaging.pictures import FORMATS, encode_any, noise, preprocessed

def peak_kib():  # not getrusage's, which starts with the peak of the parent process
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

for format in FORMATS:
    preprocessed(encode_any(noise(500, 400), format))
before = peak_kib()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        preprocessed(path.read_bytes())
    except ImageTooLarge:
        print((peak_kib() - before) // 1024)
"""


@pytest.mark.lengthy
def test_rejecting_a_huge_image_needs_little_memory(tmp_path: Path) -> None:
    for name, data in HUGE.items():
        (tmp_path / name).write_bytes(data)

    # A separate process: Pillow allocates in C, so only a new process's peak can be measured.
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], cwd=ROOT, capture_output=True, text=True
    )

    grown_mib = [int(line) for line in run.stdout.split()]
    assert len(grown_mib) == len(HUGE), run.stderr
    assert max(grown_mib) < 16  # the smallest of them would unpack to 190 MiB
