"""EXIF, XMP, both or neither, in every container: the result equals `exif_transpose`."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tests.unit.imaging.pictures import (
    decoded,
    encode,
    noise,
    png,
    png_rows,
    riff,
    spec,
)
from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.decode import Size, decode

ORIENTATION, XMP_TAG = 0x0112, 700
PICTURE = noise(9, 5)
# pytest's filters take precedence over those that the service sets, so this is needed here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

Container = Callable[[bytes | None, bytes | None], bytes]  # (EXIF block, XMP packet) → file


def exif_block(*tags: tuple[int, int, int, bytes]) -> bytes:
    """Return an EXIF block without its prefix: (tag, type, count, four bytes of value)."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def short(value: int) -> bytes:
    return exif_block((ORIENTATION, 3, 1, struct.pack("<HH", value, 0)))


def packet(orientation: str) -> bytes:
    return (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
        + orientation.encode()
        + b"</rdf:RDF></x:xmpmeta>"
    )


EXIF: dict[str, bytes | None] = {
    "absent": None,
    "without the tag": exif_block((0x0128, 3, 1, b"\x02\0\0\0")),
    **{f"{value}": short(value) for value in range(10)},
    "a long": exif_block((ORIENTATION, 4, 1, b"\x06\0\0\0")),
    "text": exif_block((ORIENTATION, 2, 2, b"6\0\0\0")),
    "a float": exif_block((ORIENTATION, 11, 1, struct.pack("<f", 6.0))),
    "three numbers": exif_block((ORIENTATION, 3, 3, b"\x1a\0\0\0")),
    "of unknown type": exif_block((ORIENTATION, 99, 1, b"\x06\0\0\0")),
    "twice": exif_block((ORIENTATION, 3, 1, b"\x06\0\0\0"), (ORIENTATION, 3, 1, b"\x03\0\0\0")),
    "more tags than bytes": b"II*\0\x08\0\0\0\xff\xff",
    "cut": b"II*\0\x08",
    "noise": bytes(range(60)),
}
XMP: dict[str, bytes | None] = {
    "absent": None,
    "empty": b"",
    **{f"attribute {n}": packet(f'tiff:Orientation="{n}"/>') for n in range(10)},
    **{f"element {n}": packet(f"><tiff:Orientation>{n}</tiff:Orientation>") for n in range(10)},
    "single quotes": packet("tiff:Orientation='6'/>"),
    "a word": packet('tiff:Orientation="left"/>'),
    "two numbers": packet('tiff:Orientation="6" tiff:Orientation="3"/>'),
    "no XML": b'tiff:Orientation="6',
    "not UTF-8": b"\xff\xfe" + packet('tiff:Orientation="6"/>'),
}
SIX = packet('tiff:Orientation="6"/>')
XMP_CHUNK = b"XML:com.adobe.xmp\0\0\0\0\0"


def jpeg(exif: bytes | None, xmp: bytes | None) -> bytes:
    data = encode(PICTURE, "JPEG", quality=100)
    contents = [] if exif is None else [b"Exif\0\0" + exif]
    contents += [] if xmp is None else [b"http://ns.adobe.com/xap/1.0/\0" + xmp]
    extra = b"".join(b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body for body in contents)
    return data[:2] + extra + data[2:]


def webp(exif: bytes | None, xmp: bytes | None) -> bytes:
    still = encode(PICTURE, "WEBP")[12:]
    size = int.from_bytes(still[4:8], "little")
    flags = (8 if exif is not None else 0) | (4 if xmp is not None else 0)
    canvas = bytes([flags, 0, 0, 0, 8, 0, 0, 4, 0, 0])
    chunks = [(b"VP8X", canvas), (still[:4], still[8 : 8 + size])]
    chunks += [(b"EXIF", exif)] if exif is not None else []
    chunks += [(b"XMP ", xmp)] if xmp is not None else []
    return riff(*chunks)


def _png_chunks(exif: bytes | None, xmp: bytes | None) -> list[tuple[bytes, bytes]]:
    chunks = [] if exif is None else [(b"eXIf", exif)]
    return chunks + ([] if xmp is None else [(b"iTXt", XMP_CHUNK + xmp)])


def png_before_its_pixels(exif: bytes | None, xmp: bytes | None) -> bytes:
    return png((9, 5), 8, 2, png_rows(np.asarray(PICTURE)), extra=_png_chunks(exif, xmp))


def png_after_its_pixels(exif: bytes | None, xmp: bytes | None) -> bytes:
    return png((9, 5), 8, 2, png_rows(np.asarray(PICTURE)), late=_png_chunks(exif, xmp))


def png_on_both_sides(exif: bytes | None, xmp: bytes | None) -> bytes:
    """Return a file whose XMP, or an orientation of 8, comes first and whose EXIF comes last."""
    early = _png_chunks(None, xmp) if xmp is not None else _png_chunks(short(8), None)
    late = _png_chunks(exif, None)
    return png((9, 5), 8, 2, png_rows(np.asarray(PICTURE)), extra=early, late=late)


def imagemagick_profile(exif: bytes) -> bytes:
    body = b"Exif\0\0" + exif
    return f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()


def png_of_imagemagick(exif: bytes | None, xmp: bytes | None) -> bytes:
    key = b"Raw profile type exif\0"
    extra = [] if exif is None else [(b"tEXt", key + imagemagick_profile(exif))]
    extra += [] if xmp is None else [(b"tEXt", b"XML:com.adobe.xmp\0" + xmp)]
    return png((9, 5), 8, 2, png_rows(np.asarray(PICTURE)), extra=extra)


def png_of_imagemagick_compressed(exif: bytes | None, xmp: bytes | None) -> bytes:
    key = b"Raw profile type exif\0\0"
    late = [] if exif is None else [(b"zTXt", key + zlib.compress(imagemagick_profile(exif)))]
    return png((9, 5), 8, 2, png_rows(np.asarray(PICTURE)), _png_chunks(None, xmp), late)


def tiff(exif: bytes | None, xmp: bytes | None) -> bytes:
    """Return a TIFF whose own tags contain the block's orientation, if that is a complete tag."""
    tags: dict[int, object] = {} if xmp is None else {XMP_TAG: xmp}
    if exif is not None and len(exif) == len(short(1)) and exif[10:14] == short(1)[10:14]:
        tags[ORIENTATION] = exif[18]
    return encode(PICTURE, "TIFF", tiffinfo=tags)


def gif(exif: bytes | None, xmp: bytes | None) -> bytes:
    """Return a GIF with XMP as Adobe writes it, which Pillow does not read."""
    data = encode(PICTURE.quantize(64), "GIF")
    trailer = bytes([1, *range(255, -1, -1), 0])
    block = b"" if xmp is None else b"!\xff\x0bXMP DataXMP" + xmp + trailer
    start = data.index(b",\0\0\0\0")
    return data[:start] + block + data[start:]


CONTAINERS: tuple[Container, ...] = (
    jpeg,
    webp,
    png_before_its_pixels,
    png_after_its_pixels,
    png_on_both_sides,
    png_of_imagemagick,
    png_of_imagemagick_compressed,
    tiff,
    gif,
)


def upright_by_pillow(data: bytes) -> NDArray[np.uint8]:
    """Return a file oriented by `exif_transpose`; unchanged if it cannot read the EXIF."""
    with Image.open(io.BytesIO(data)) as image:
        try:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception:  # noqa: BLE001 - from the metadata; the pixels are valid
            return np.asarray(image.convert("RGB"))


def combinations() -> Iterator[tuple[str, bytes | None, bytes | None]]:
    for exif_name, exif in EXIF.items():
        for xmp_name, xmp in XMP.items():
            yield f"EXIF {exif_name}, XMP {xmp_name}", exif, xmp


@pytest.mark.lengthy
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_combination_of_exif_and_xmp_equals_pillow_s_transpose(container: Container) -> None:
    differing = []
    for name, exif, xmp in combinations():
        data = container(exif, xmp)
        if not np.array_equal(decoded(data), upright_by_pillow(data)):
            differing.append(name)

    assert differing == []


@pytest.mark.lengthy
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_last_size_that_is_checked_is_the_size_that_comes_out(container: Container) -> None:
    for name, exif, xmp in combinations():
        seen: list[Size] = []

        upright = decode(container(exif, xmp), spec(), seen.append)

        assert seen[-1] == upright.size, name


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_container_that_pillow_reads_metadata_of_is_turned_by_either(
    container: Container,
) -> None:
    shapes = {decoded(container(exif, xmp)).shape for exif, xmp in ((short(6), None), (None, SIX))}

    assert shapes == {(5, 9, 3) if container is gif else (9, 5, 3)}


@pytest.mark.parametrize("container", [jpeg, webp, png_before_its_pixels, png_of_imagemagick, tiff])
@pytest.mark.parametrize(("exif", "xmp"), [(short(6), None), (None, SIX), (short(6), SIX)])
def test_the_upright_size_is_checked_before_any_pixel_is_decoded(
    container: Container, exif: bytes | None, xmp: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(size: Size) -> None:
        if size == (5, 9):
            raise ImageTooLarge("upright")

    def load(image: ImageFile.ImageFile) -> None:
        raise AssertionError("pixels are decoded before their size is checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)

    with pytest.raises(ImageTooLarge, match="upright"):
        decode(container(exif, xmp), spec(), refuse)


@pytest.mark.parametrize("late", [(b"eXIf", short(6)), (b"iTXt", XMP_CHUNK + SIX)])
def test_a_png_whose_late_orientation_makes_it_too_high_is_rejected(
    late: tuple[bytes, bytes],
) -> None:
    def refuse_what_is_high(size: Size) -> None:
        if size[1] > 1_000:
            raise ImageTooLarge(f"{size}")

    wide = png((30_000, 1), 8, 0, png_rows(np.zeros((1, 30_000), np.uint8)), late=[late])

    with pytest.raises(ImageTooLarge, match=r"\(1, 30000\)"):
        decode(wide, spec(), refuse_what_is_high)


def test_a_tiff_is_turned_by_pillow_s_loader_and_so_in_any_case() -> None:
    ignoring = spec(exif_orientation="ignore")

    for exif, xmp in ((short(6), None), (None, SIX)):
        data = tiff(exif, xmp)
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(decoded(data, ignoring), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", [2, 3, 4])  # text, and numbers
def test_xmp_of_the_wrong_type_does_not_reject_a_tiff(kind: int) -> None:
    directory = ImageFileDirectory_v2()
    directory[XMP_TAG] = SIX.decode() if kind == 2 else (7, 8, 9)
    directory.tagtype[XMP_TAG] = kind

    data = encode(PICTURE, "TIFF", tiffinfo=directory)

    assert np.array_equal(decoded(data), np.asarray(PICTURE))


@pytest.mark.lengthy
@pytest.mark.parametrize("start", [b"tiff:Orientatio", b"tiff:Orientation=", b"<tiff:Orientation>"])
@pytest.mark.parametrize("container", [webp, tiff])
def test_sixteen_megabytes_of_xmp_cost_no_more_than_looking_once(
    container: Container, start: bytes
) -> None:
    data = container(None, start * (16_000_000 // len(start)))

    before = time.thread_time()
    decoded(data)

    assert time.thread_time() - before < 1.0  # .05 s; backtracking takes minutes
