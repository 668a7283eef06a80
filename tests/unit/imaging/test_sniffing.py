"""The format is determined by the first bytes, never by a file name or a request header."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from tests.unit.imaging.pictures import (
    FORMATS,
    decoded,
    encode,
    encode_any,
    noise,
    png,
    png_rows,
    preprocessed,
)
from tidegate.service.errors import UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.decode import sniff

SVG = b"""<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>"""
NOT_IMAGES = {
    "nothing": b"",
    "one byte": b"\xff",
    "text": b"a photograph of a cat",
    "text with a capital B": b"Beach, at sunset",
    "text that begins as a BMP": b"BMW is a car",
    "html": b"<!doctype html><img src=x>",
    "pdf": b"%PDF-1.7\n1 0 obj",
    "svg": SVG,
    "zip": b"PK\x03\x04" + bytes(40),
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "half a png signature": b"\x89PNG\r\n",
    "webp without its name": b"RIFF\x24\0\0\0",
    "bigtiff": b"II+\0\x08\0\0\0",
    "photoshop": b"8BPS\0\x01",
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0",
    "ico": b"\0\0\x01\0\x01\0\x10\x10",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0",
    "an image behind a space": b" " + encode(noise(4, 4), "PNG"),
}


@pytest.mark.parametrize("format", FORMATS)
def test_each_allowed_format_is_known_by_its_content(format: str) -> None:
    assert sniff(encode_any(noise(5, 4), format)) == format


def test_a_big_endian_tiff_is_a_tiff() -> None:
    assert sniff(b"MM\0*\0\0\0\x08") == "TIFF"


@pytest.mark.parametrize("data", NOT_IMAGES.values(), ids=list(NOT_IMAGES))
def test_other_content_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImageType, match="JPEG, PNG, WebP, BMP, GIF or TIFF"):
        preprocessed(data)


@pytest.mark.parametrize("format", ["ICO", "PPM", "TGA", "SGI", "PCX", "DDS", "JPEG2000", "AVIF"])
def test_other_formats_that_pillow_reads_are_unsupported(format: str) -> None:
    data = encode(noise(16, 16), format)

    with pytest.raises(UnsupportedImageType):
        preprocessed(data)


@pytest.mark.parametrize("format", FORMATS)
def test_a_signature_without_data_is_undecodable(format: str) -> None:
    signature = encode_any(noise(5, 4), format)[:12]

    with pytest.raises(UndecodableImage, match="truncated or corrupt"):
        preprocessed(signature)


def test_one_format_behind_the_signature_of_another_is_not_decoded_as_that_other() -> None:
    with pytest.raises(UndecodableImage):
        preprocessed(b"BM" + encode(noise(5, 4), "PNG"))


def test_a_gif_that_is_also_a_script_is_decoded_as_the_gif_it_is() -> None:
    image = noise(5, 4).convert("P")
    polyglot = encode(image, "GIF") + b"=1;alert(document.domain);//"

    assert np.array_equal(decoded(polyglot), decoded(encode(image, "GIF")))


def test_a_gif_whose_header_doubles_as_a_script_is_rejected() -> None:
    with pytest.raises(UndecodableImage):
        preprocessed(b"GIF89a=1;alert(document.domain);//")


def test_a_jpeg_with_an_appended_zip_is_decoded_as_the_jpeg_it_is() -> None:
    photo = encode(noise(16, 12), "JPEG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.html", "<script>alert(1)</script>")

    assert np.array_equal(decoded(photo + archive.getvalue()), decoded(photo))


def test_a_png_carrying_html_in_a_comment_is_decoded_as_the_png_it_is() -> None:
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    comment = (b"tEXt", b"Comment\0<script>alert(1)</script>")

    assert np.array_equal(decoded(png((4, 3), 8, 2, png_rows(pixels), [comment])), pixels)
