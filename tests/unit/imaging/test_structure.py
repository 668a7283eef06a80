"""Files that cost a codec far more than their pixels are rejected; those at a limit are decoded."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, MpoImagePlugin

from tests.unit.imaging.pictures import (
    FORMATS,
    decoded,
    encode,
    encode_any,
    noise,
    png,
    png_rows,
    preprocessed,
    tiff,
)
from tests.unit.imaging.test_hostile_images import DAMAGES, variants
from tidegate.service.errors import ImageTooLarge, UndecodableImage, UnsupportedImageType
from tidegate.service.imaging import decode, structure
from tidegate.service.imaging.decode import sniff
from tidegate.service.imaging.structure import BoundedReads, check_structure

PLAIN_JPEG = encode(noise(16, 16), "JPEG")
PLAIN_GIF = encode(noise(16, 16).convert("P"), "GIF")
ROWS = png_rows(np.zeros((4, 4, 3), np.uint8))
BAD_DEFLATE = zlib.compress(bytes(100))[:-1]


def segment(marker: int, content: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(content)) + content


def jpeg_with(*early: bytes) -> bytes:
    """Return a JPEG with these bytes after its first marker."""
    return PLAIN_JPEG[:2] + b"".join(early) + PLAIN_JPEG[2:]


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan until it has `count`."""
    data = encode(Image.new("L", (16, 16)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (count - data.count(b"\xff\xda")) + data[-2:]


def jpeg_of_segments(count: int) -> bytes:
    before_pixels = PLAIN_JPEG[: PLAIN_JPEG.index(b"\xff\xda")]
    own, at = 1, 2  # scans: the first one, and those found below
    while at < len(before_pixels):
        own, at = own + 1, at + 2 + int.from_bytes(before_pixels[at + 2 : at + 4])
    return jpeg_with(segment(0xE3) * (count - own))


def jpeg_of_exif(size: int) -> bytes:
    content = b"Exif\0\0".ljust(1 << 15, b"I")
    whole, rest = divmod(size, len(content))
    return jpeg_with(segment(0xE1, content) * whole, segment(0xE1, content[:rest]))


def directory(count: int) -> bytes:
    """Return a TIFF-like block of one directory with `count` tags."""
    tags = b"".join(struct.pack("<HHII", 1_000 + number, 3, 1, 1) for number in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4)


def jpeg_of_exif_tags(count: int) -> bytes:
    return jpeg_with(segment(0xE1, b"Exif\0\0" + directory(count)))


def jpeg_of_index_tags(count: int) -> bytes:
    return jpeg_with(segment(0xE2, b"MPF\0" + directory(count)))


def png_of_exif_tags(count: int) -> bytes:
    return png((4, 4), 8, 2, ROWS, extra=[(b"eXIf", directory(count))])


def jpeg_of_resources(count: int) -> bytes:
    resource = b"8BIM" + struct.pack(">HHI", 0x0400, 0, 0)
    return jpeg_with(segment(0xED, b"Photoshop 3.0\0" + resource * count))


def jpeg_of_table_bytes(size: int) -> bytes:
    """Return a JPEG with `size` bytes of table segments, including its own two."""
    own = sum(len(PLAIN_JPEG[at + 4 : end]) for at, end in table_segments(PLAIN_JPEG))
    table = b"\0" + bytes(range(1, 65))
    whole, rest = divmod(size - own, 65 * 500)
    return jpeg_with(segment(0xDB, table * 500) * whole, segment(0xDB, table * (rest // 65)))


def table_segments(data: bytes) -> list[tuple[int, int]]:
    found, at = [], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] in (0xDB, 0xC0):
            found.append((at, end))
        at = end
    return found


def jpeg_with_padding(size: int) -> bytes:
    return jpeg_with(b"\xff" * size)


def png_of_chunks(count: int) -> bytes:
    return png((4, 4), 8, 2, ROWS, extra=[(b"teSt", b"")] * (count - 3))


def png_of_profiles(count: int) -> bytes:
    return png((4, 4), 8, 2, ROWS, extra=[(b"iCCP", b"a\0\0" + BAD_DEFLATE)] * count)


def png_of_late_texts(count: int) -> bytes:
    return png((4, 4), 8, 2, ROWS, late=[(b"zTXt", b"a\0\0" + BAD_DEFLATE)] * count)


def png_of_exif(size: int) -> bytes:
    exif = b"II*\0\x08\0\0\0\0\0".ljust(size - 6, b"\0")  # Pillow adds a prefix of six bytes
    return png((4, 4), 8, 2, ROWS, extra=[(b"eXIf", exif)])


def tiff_tags(**changes: int) -> dict[int, tuple[int, list[int]]]:
    tags = {256: (4, [16]), 257: (4, [16]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1])}
    tags |= {277: (3, [1]), 278: (4, [16]), 273: (4, [8]), 279: (4, [256])}
    return tags | {int(tag[1:]): (4, [value]) for tag, value in changes.items()}


def tiff_of_strips(count: int) -> bytes:
    listed = {273: (4, [8] * count), 279: (4, [16] * count)}
    return tiff(tiff_tags(_257=count, _278=1) | listed, bytes(300))


def tiff_of_packed_strips(count: int) -> bytes:
    """Return a TIFF of deflated rows of 16 pixels that all share one row."""
    row = zlib.compress(bytes(16))
    tags = tiff_tags(_257=count, _278=1, _259=8)
    tags |= {273: (4, [0] * count), 279: (4, [len(row)] * count)}
    start = len(tiff(tags))
    return tiff(tags | {273: (4, [start] * count)}, row)


def tiff_of_promised_strips(count: int) -> bytes:
    """Return a TIFF with more strips than it lists."""
    return tiff(tiff_tags(_257=count, _278=1), bytes(300))


def tiff_of_bytes(tag: int, count: int) -> bytes:
    """Return a TIFF with a tag of type BYTE, whose values Pillow also reads one by one."""
    data = bytearray(tiff(tiff_tags(_320=1), bytes(count + 300)))
    at = data.index(struct.pack("<HHI", tag, 4, 1))
    data[at : at + 12] = struct.pack("<HHII", tag, 1, count, 200)
    return bytes(data)


def tiff_of_tags(count: int) -> bytes:
    needed = tiff_tags()
    more: dict[int, tuple[int, list[int]]] = {
        40_000 + number: (3, [1]) for number in range(count - len(needed))
    }
    return tiff(needed | more, bytes(300))


def tiff_of_numbers(count: int) -> bytes:
    own = sum(len(values) for _, values in tiff_tags().values())
    return tiff(tiff_tags() | {50_000: (3, [1] * (count - own))}, bytes(300))


@dataclass(frozen=True)
class Bomb:
    build: Callable[[int], bytes]
    limit: int
    says: str
    step: int = 1


BOMBS = {
    "scans": Bomb(jpeg_of_scans, 64, "JPEG has more than 64 scans"),
    "segments": Bomb(jpeg_of_segments, 1_000, "JPEG has more than 1,000 segments"),
    "padding": Bomb(jpeg_with_padding, 4_096, "JPEG has more than 4,096 bytes between segments"),
    "exif": Bomb(jpeg_of_exif, 1 << 20, "JPEG has more than 1,048,576 bytes of EXIF", 7),
    "tables": Bomb(jpeg_of_table_bytes, 1 << 16, "JPEG has more than 65,536 bytes of tables", 65),
    "resources": Bomb(jpeg_of_resources, 1_000, "JPEG has more than 1,000 Photoshop resources"),
    "chunks": Bomb(png_of_chunks, 8_192, "PNG has more than 8,192 chunks"),
    "profiles": Bomb(png_of_profiles, 32, "PNG has more than 32 compressed profiles and texts"),
    "late texts": Bomb(png_of_late_texts, 32, "PNG has more than 32 compressed"),
    "png exif": Bomb(png_of_exif, 1 << 20, "PNG has more than 1,048,576 bytes of EXIF"),
    "exif tags": Bomb(jpeg_of_exif_tags, 2_048, "JPEG has more than 2,048 tags of EXIF"),
    "png exif tags": Bomb(png_of_exif_tags, 2_048, "PNG has more than 2,048 tags of EXIF"),
    "raw strips": Bomb(tiff_of_strips, 8_192, "TIFF has more than 8,192 strips or tiles"),
    "strips": Bomb(tiff_of_packed_strips, 20_000, "TIFF has more than 20,000 strips or tiles"),
    "tags": Bomb(tiff_of_tags, 1_024, "TIFF has more than 1,024 tags"),
    "numbers": Bomb(tiff_of_numbers, 1 << 18, "TIFF has more than 262,144 numbers in its tags"),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=list(BOMBS))
def test_a_count_at_its_limit_is_decoded_and_one_more_is_rejected(bomb: Bomb) -> None:
    assert decoded(bomb.build(bomb.limit)).size

    with pytest.raises(UndecodableImage, match=bomb.says):
        decoded(bomb.build(bomb.limit + bomb.step))


def before_pixels_of_gif(early: bytes) -> bytes:
    at = PLAIN_GIF.index(b",\0\0\0\0")
    return PLAIN_GIF[:at] + early + PLAIN_GIF[at:]


REFUSED = {
    "tags of a multi-picture index": (jpeg_of_index_tags(2_049), "2,048 tags in an index"),
    "exif in hexadecimal": (
        png((4, 4), 8, 2, ROWS, extra=[(b"tEXt", b"Raw profile type exif\0" + b"0" * 300_000)]),
        "262,144 characters of EXIF",
    ),
    "gif comment": (before_pixels_of_gif(b"!\xfe" + b"\1a" * 5_000 + b"\0"), "4,096 blocks"),
    "gif extensions": (before_pixels_of_gif(b"!\xff\1A\0" * 2_500), "4,096 blocks"),
    "gif junk": (before_pixels_of_gif(bytes(5_000)), "4,096 blocks"),
    "repeated starts": (jpeg_with(b"\xff\xd8" * 1_000), "1,000 segments"),
    "escapes between segments": (jpeg_with(b"\xff\0" * 3_000), "4,096 bytes between"),
    "escapes in pieces": (jpeg_with((b"\xff\0" * 700 + segment(0xE3)) * 3), "4,096 bytes between"),
    "two frame headers": (jpeg_with(segment(0xC0, bytes(40))), "truncated or corrupt"),
    "segments between scans": (
        PLAIN_JPEG[:-2] + segment(0xE3) * 1_001 + PLAIN_JPEG[-2:],
        "1,000 segments",
    ),
    "strips not listed": (tiff_of_promised_strips(8_193), "8,192 strips or tiles"),
    "strips listed as bytes": (tiff_of_bytes(273, 8_193), "8,192 strips or tiles"),
    "colours listed as bytes": (tiff_of_bytes(320, 1 << 18), "262,144 numbers"),
}


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=list(REFUSED))
def test_a_limit_is_not_evaded_by_another_encoding(data: bytes, says: str) -> None:
    with pytest.raises(UndecodableImage, match=says):
        decoded(data)


def test_a_file_with_too_many_reads_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "MAX_READS", 30)
    assert decoded(png_of_chunks(5)).size

    with pytest.raises(UndecodableImage, match="Reading the PNG takes more than 30 reads"):
        decoded(png_of_chunks(30))


def test_bounded_reads_raise_after_the_last_read() -> None:
    file = BoundedReads("GIF", b"abc")
    for _ in range(structure.MAX_READS - 1):
        file.read(0)

    assert file.read() == b"abc"
    with pytest.raises(UndecodableImage, match="Reading the GIF"):
        file.read()


def tiled(width: int, tile: tuple[int, int], repeats: int, order: str = "<") -> bytes:
    """Return a TIFF of `repeats` rows of tiles that all share one deflated black tile."""
    packed = zlib.compress(bytes(min(tile[0] * tile[1], 1 << 20)))
    start = 8 + 2 + 12 * 10 + 4
    tags = [(256, width), (257, tile[1] * repeats), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile[0]), (323, tile[1])]
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        if value < 1 << 16
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in tags
    )
    where = [start + 8 * repeats] * repeats
    lists = struct.pack(f"{order}{2 * repeats}I", *where, *[len(packed)] * repeats)
    for tag, at in ((324, 0), (325, 4 * repeats)):
        value = struct.unpack_from(f"{order}I", lists, at)[0] if repeats == 1 else start + at
        entries += struct.pack(f"{order}HHII", tag, 4, repeats, value)
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, 10)
    return head + entries + bytes(4) + lists + packed


@pytest.mark.parametrize("order", "<>")
def test_all_tiles_of_a_tiff_together_count_as_pixels(order: str) -> None:
    assert preprocessed(tiled(16, (16, 16), 3, order)).shape == (8, 8, 3)

    with pytest.raises(ImageTooLarge, match="3000000 × 3200 pixels; the limit is"):
        preprocessed(tiled(16, (3_000_000, 16), 200, order))


@pytest.mark.parametrize(
    ("tag", "kind", "count"),
    [(322, 17, 1), (323, 17, 1), (278, 5, 1), (256, 4, 2), (277, 1, 1)],
    ids=["tile width", "tile height", "strip rows", "two widths", "samples in a byte"],
)
def test_an_ambiguous_tiff_layout_is_rejected(tag: int, kind: int, count: int) -> None:
    data = tiled(16, (16, 16), 2) if tag in (322, 323) else tiff(tiff_tags(), bytes(300))
    at = next(at for at in range(10, 200, 12) if data[at : at + 2] == struct.pack("<H", tag))
    odd = data[: at + 2] + struct.pack("<HI", kind, count) + data[at + 8 :]

    with pytest.raises(UndecodableImage, match=f"Tag {tag} of the TIFF is not a single"):
        decoded(odd)


def test_a_duplicate_layout_tag_is_rejected() -> None:
    data = bytearray(tiled(16, (16, 16), 2))
    samples = data.index(struct.pack("<HHI", 277, 3, 1))
    data[samples : samples + 12] = struct.pack("<HHII", 322, 4, 1, 30_000)

    with pytest.raises(UndecodableImage, match="contains tag 322 more than once"):
        decoded(bytes(data))


def test_the_directories_of_a_tiff_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(tiff_tags(_34665=200, _34853=200), bytes(300))

    def refuse(exif: Image.Exif, tag: int) -> None:
        raise AssertionError(f"directory {tag} was read")

    monkeypatch.setattr(Image.Exif, "get_ifd", refuse)
    assert decoded(data).shape == (16, 16, 3)


def test_a_long_fill_among_the_pixels_of_a_jpeg_is_read_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int | None] = []
    read = BoundedReads.read

    def recorded(file: BoundedReads, size: int | None = -1, /) -> bytes:
        sizes.append(size)
        return read(file, size)

    monkeypatch.setattr(BoundedReads, "read", recorded)
    monkeypatch.setattr(decode, "decode_straight", lambda *_, **__: None)
    filled = PLAIN_JPEG[:-2] + b"\xff" * 200_000 + PLAIN_JPEG[-1:]

    assert (decoded(filled) == decoded(PLAIN_JPEG)).all()
    assert len(filled) in sizes


def mpo() -> bytes:
    file = io.BytesIO()
    noise(40, 30).save(file, "MPO", save_all=True, append_images=[noise(40, 30, seed=1)])
    return file.getvalue()


def animated(format: str) -> bytes:
    frames = [noise(20, 10, seed).convert("P" if format == "GIF" else "RGB") for seed in range(9)]
    return encode(frames[0], format, save_all=True, append_images=frames[1:])


def png_of_small_pieces() -> bytes:
    """Return a PNG with one byte of pixels per IDAT chunk, and empty chunks in between."""
    image = np.asarray(noise(40, 30))
    packed = zlib.compress(png_rows(image))
    pieces = itertools.chain.from_iterable((packed[at : at + 1], b"") for at in range(len(packed)))
    whole = png((40, 30), 8, 2, extra=[(b"IDAT", piece) for piece in pieces])
    stray = whole.rindex(b"IDAT") - 4
    return whole[:stray] + whole[-12:]


def with_film(data: bytes) -> bytes:
    """Append data as phones do, here with more scan-like bytes than are allowed."""
    return data + b"\0\2" + b"\xff\xda\0\2" * 1_000


def strips_of_lzw() -> bytes:
    return encode(noise(70, 50), "TIFF", compression="tiff_lzw", tiffinfo={278: 3})


EXIF = Image.Exif()
EXIF[0x010F] = "x" * 60_000
ODD_BUT_LEGAL: dict[str, bytes] = {
    **{format: encode_any(noise(50, 40), format) for format in FORMATS},
    "progressive JPEG": encode(noise(50, 40), "JPEG", progressive=True),
    "progressive CMYK": encode(noise(50, 40).convert("CMYK"), "JPEG", progressive=True),
    "JPEG of 5 MB profile": encode(noise(50, 40), "JPEG", icc_profile=bytes(5_000_000)),
    "JPEG of 60 kB EXIF": encode(noise(50, 40), "JPEG", exif=EXIF),
    "JPEG of extended XMP": jpeg_with(segment(0xE1, b"http://ns.adobe.com/x\0" * 2_900) * 200),
    "JPEG with restarts": encode(noise(200, 150), "JPEG", restart_marker_blocks=1),
    "JPEG with padding": jpeg_with(b"\xff" * 9, bytes(9), b"\xff\0"),
    "JPEG with a film": with_film(PLAIN_JPEG),
    "multi-picture JPEG": mpo(),
    "multi-picture JPEG with a film": with_film(mpo()),
    "PNG of small pieces": png_of_small_pieces(),
    "PNG with a profile": encode(noise(50, 40), "PNG", icc_profile=bytes(50_000)),
    "GIF with a long comment": encode(noise(50, 40).convert("P"), "GIF", comment=b"c" * 200_000),
    "TIFF of strips": encode(noise(300, 400), "TIFF", tiffinfo={278: 1}),
    "TIFF of LZW strips": strips_of_lzw(),
    "TIFF of tiles": tiled(9, (16, 16), 3),
    **{f"animated {format}": animated(format) for format in ("GIF", "PNG", "WEBP")},
}


@pytest.mark.parametrize("data", ODD_BUT_LEGAL.values(), ids=list(ODD_BUT_LEGAL))
def test_an_unusual_but_valid_file_has_pillow_s_pixels(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))

    assert (decoded(data) == expected).all()


def test_a_multi_picture_jpeg_is_opened_as_one() -> None:
    with Image.open(io.BytesIO(mpo())) as image:
        assert isinstance(image, MpoImagePlugin.MpoImageFile)


def test_the_palette_of_an_os2_bitmap_is_not_read_as_a_compression() -> None:
    header = struct.pack("<IHHHH", 12, 4, 1, 1, 8)
    palette = bytes(3) + b"\0\1\0" + bytes(3 * 254)
    data = b"BM" + struct.pack("<IHHI", 26 + 768 + 4, 0, 0, 26 + 768) + header + palette + bytes(4)
    assert data[30:34] == b"\1\0\0\0"

    assert not decoded(data).any()


SIGNATURES = {format: encode_any(noise(5, 4), format)[:12] for format in FORMATS}


def verdict(kind: str, data: bytes) -> str:
    """Return the check's outcome; any other exception fails the test."""
    try:
        check_structure(kind, data)
    except (UndecodableImage, UnsupportedImageType) as error:
        return type(error).__name__
    return "passed"


@given(kind=st.sampled_from(FORMATS), signed=st.booleans(), tail=st.binary(max_size=400))
def test_the_check_of_random_bytes_passes_or_raises_a_known_error(
    kind: str, signed: bool, tail: bytes
) -> None:
    verdict(kind, (SIGNATURES[kind] if signed else b"") + tail)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", FORMATS)
def test_the_check_of_a_damaged_file_passes_or_raises_a_known_error(
    format: str, damage: Callable[[bytes, np.random.Generator], bytes]
) -> None:
    rng = np.random.default_rng([FORMATS.index(format), DAMAGES.index(damage)])

    for data in variants(format):
        assert verdict(sniff(data), data) == "passed"
        for _ in range(60):
            verdict(format, damage(data, rng))
