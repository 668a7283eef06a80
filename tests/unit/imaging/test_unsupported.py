"""The error for an unsupported file names its feature and what to send instead."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest

from tests.unit.imaging.pictures import (
    FORMATS,
    decoded,
    encode,
    encode_any,
    noise,
    preprocessed,
    riff,
    tiff,
)
from tidegate.service.errors import UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.unsupported import unsupported_feature

PHOTO = encode(noise(16, 16), "JPEG")
# pytest's filters take precedence over those that the service sets, so this is needed here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"mif1" + bytes(60)


OTHER_FORMATS = {
    "BigTIFF": b"II+\0\x08\0\0\0" + bytes(60),
    "BigTIFF ": b"MM\0+\0\x08\0\0" + bytes(60),
    "HEIC": ftyp(b"heic"),
    "HEIC ": ftyp(b"mif1"),
    "AVIF": encode(noise(16, 16), "AVIF"),
    "AVIF ": ftyp(b"avis"),
    "A raw photograph (CR3)": ftyp(b"crx "),
    "Video (MP4)": ftyp(b"isom"),
    "JPEG 2000": encode(noise(16, 16), "JPEG2000"),
    "JPEG 2000 ": encode(noise(16, 16), "JPEG2000", no_jp2=True),
    "JPEG XL": b"\xff\x0a" + bytes(40),
    "JPEG XL ": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "SVG ": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg width="9"/>',
    "SVG  ": b'<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x"><svg/>',
    "PDF": b"%PDF-1.7\n1 0 obj",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0",
    "A Photoshop document (PSD)": b"8BPS\0\x01" + bytes(40),
    "An icon (ICO)": encode(noise(16, 16), "ICO"),
    "QOI": encode(noise(16, 16), "QOI"),
    "PNM": encode(noise(16, 16), "PPM"),
    "DDS": encode(noise(16, 16), "DDS"),
    "HTML": b"\n<!DOCTYPE HTML><img src=x>",
    "A data URL": b"data:image/png;base64,iVBORw0KGgo=",
    "Base64 text": b"/9j/4AAQSkZJRgABAQ",
    "Base64 text ": b"iVBORw0KGgoAAAANSUhEUg",
    "A ZIP archive": b"PK\x03\x04" + bytes(40),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_a_well_known_format_is_named(name: str) -> None:
    with pytest.raises(UnsupportedImageType) as refused:
        preprocessed(OTHER_FORMATS[name])

    assert str(refused.value) == (
        f"{name.rstrip()} is not supported; send JPEG, PNG, WebP, BMP, GIF or TIFF."
    )


def jpeg_with(marker: int = 0xC0, bits: int = 8, components: int = 3) -> bytes:
    at = PHOTO.index(b"\xff\xc0")
    frame = bytearray(PHOTO[at : at + 19])
    frame[1], frame[4], frame[9] = marker, bits, components
    return PHOTO[:at] + bytes(frame) + PHOTO[at + 19 :]


def tiff_with(
    compression: int = 1, photometric: int = 2, bits: tuple[int, ...] = (8, 8, 8)
) -> bytes:
    tags = {256: (3, [4]), 257: (3, [4]), 258: (3, bits), 259: (3, [compression])}
    tags |= {262: (3, [photometric]), 273: (4, [8]), 277: (3, [len(bits)]), 278: (3, [4])}
    return tiff(tags | {279: (4, [64])}, bytes(400))


def bmp_with(bits: int = 24, compression: int = 0, header: int = 40) -> bytes:
    fields = struct.pack("<IiiHHIIiiII", header, 4, 4, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 400, 0, 0, 54) + fields + bytes(400)


def png_of_xcode() -> bytes:
    """Return a PNG whose data stream has no header and no checksum, as its first chunk declares."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 4, 4, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(4 * 17), wbits=-15)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", b"\x50\0\x20\x02") + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


UNSUPPORTED = {
    "12-bit JPEG": jpeg_with(0xC1, bits=12),
    "16-bit JPEG": jpeg_with(bits=16),
    "JPEG of 2 components": jpeg_with(components=2),
    "JPEG-LS": jpeg_with(0xF7),
    "Lossless JPEG of this kind": jpeg_with(0xC3),
    "Hierarchical JPEG": jpeg_with(0xC5),
    "Hierarchical JPEG ": jpeg_with(0xDE),
    "PNG as Xcode rewrites it for iOS (CgBI)": png_of_xcode(),
    "WebP of VP9 data": riff((b"VP9 ", bytes(40))),
    "2-bit BMP": bmp_with(2),
    "64-bit BMP": bmp_with(64),
    "BMP that contains a JPEG": bmp_with(0, compression=4),
    "BMP with a header of 100 bytes": bmp_with(header=100),
    "TIFF compressed with JPEG 2000": tiff_with(34712),
    "TIFF compressed with JBIG": tiff_with(34661),
    "TIFF compressed with old-style JPEG": tiff_with(6),
    "TIFF compressed with LERC": tiff_with(34887),
    "TIFF compressed with WebP": tiff_with(50001),
    "TIFF compressed with JPEG XL": tiff_with(50002),
    "TIFF of raw sensor values": tiff_with(photometric=32803, bits=(16,)),
    "TIFF of 12 bits per sample in this colour space": tiff_with(bits=(12, 12, 12)),
    "TIFF of 64 bits per sample in this colour space": tiff_with(photometric=1, bits=(64,)),
    "TIFF that mixes samples of 5 and 6 bits": tiff_with(bits=(5, 6, 5)),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_feature_that_is_not_decoded_is_named(name: str) -> None:
    with pytest.raises(UnsupportedImageType) as refused:
        preprocessed(UNSUPPORTED[name])

    assert str(refused.value).startswith(f"{name.rstrip()} is not supported; send ")
    assert str(refused.value).endswith(".")


def test_the_advice_for_12_bits_is_8_bits() -> None:
    with pytest.raises(UnsupportedImageType, match=r"^12-bit JPEG .*; send 8 bits per sample\.$"):
        preprocessed(jpeg_with(0xC1, bits=12))


@pytest.mark.lengthy
def test_any_header_gives_a_feature_or_none_and_never_an_exception() -> None:
    rng = np.random.default_rng(3)
    files = [encode_any(noise(8, 6), format) for format in FORMATS] + list(UNSUPPORTED.values())
    for data in files:
        for _ in range(300):
            damaged = bytearray(data[: int(rng.integers(8, len(data)))])
            for at in rng.integers(8, 200, size=12):
                damaged[min(int(at), len(damaged) - 1)] = int(rng.choice([0, 1, 3, 4, 255]))
            for format in FORMATS:
                name = unsupported_feature(format, bytes(damaged))
                assert name is None or name.endswith(".")


class CountedBytes(bytes):
    """Counts how often Python code reads an item."""

    asked = 0

    def __getitem__(self, at: Any) -> Any:
        self.asked += 1
        return super().__getitem__(at)


@pytest.mark.parametrize("end", [b"", b"\0", PHOTO[PHOTO.index(b"\xff\xc0") + 1 :]])
def test_a_long_fill_is_not_walked_byte_by_byte(end: bytes) -> None:
    data = CountedBytes(b"\xff\xd8" + b"\xff" * 100_000 + end)

    assert unsupported_feature("JPEG", data) is None
    assert data.asked < 100


@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("tag", [258, 259, 262])
def test_a_tiff_s_tag_without_values_is_no_error(tag: int, kind: int) -> None:
    assert unsupported_feature("TIFF", tiff({256: (3, [4]), tag: (kind, [])})) is None


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_of_a_supported_kind_is_not_called_unsupported(format: str) -> None:
    data = encode_any(noise(40, 30), format)
    for cut in np.linspace(12, len(data) * 2 // 3, 50).astype(int):
        try:
            preprocessed(data[:cut])
        except UndecodableImage:
            continue


def test_an_eight_bit_lossless_jpeg_is_decoded() -> None:
    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    frame = segment(0xC3, struct.pack(">BHHB", 8, 8, 8, 1) + b"\x01\x11\0")
    table = segment(0xC4, b"\0" + bytes([1, 1, *[0] * 14]) + b"\0\1")
    scan = segment(0xDA, b"\x01\x01\0\x01\0\0") + bytes(8)

    assert (decoded(b"\xff\xd8" + frame + table + scan + b"\xff\xd9") == 128).all()


ANIMATED = {
    "PNG": encode(noise(9, 5), "PNG", save_all=True, append_images=[noise(9, 5, 1)]),
    "WEBP": encode(noise(9, 5), "WEBP", save_all=True, append_images=[noise(9, 5, 1)]),
    "TIFF": encode(noise(9, 5), "TIFF", save_all=True, append_images=[noise(7, 8, 1)]),
    "MPO": encode(noise(9, 5), "MPO", save_all=True, append_images=[noise(9, 5, 1)]),
    "GIF": encode(
        noise(9, 5).quantize(32), "GIF", save_all=True, append_images=[noise(9, 5, 1).quantize(32)]
    ),
}


@pytest.mark.parametrize("format", ANIMATED)
def test_of_an_animated_file_the_first_frame_is_decoded(format: str) -> None:
    still = {"GIF": noise(9, 5).quantize(32).convert("RGB"), "MPO": noise(9, 5)}
    expected = np.asarray(still.get(format, noise(9, 5)))
    if format == "MPO":
        expected = decoded(encode(noise(9, 5), "JPEG"))

    assert np.array_equal(decoded(ANIMATED[format]), expected)
