"""A JPEG whose end marker comes too early is truncated, even if it also causes other warnings."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.imaging.pictures import decoded, encode, noise, spec
from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging import decode, jpeg
from tidegate.service.imaging.decode import decode_source

EOI, SCAN = b"\xff\xd9", b"\xff\xda"
KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "all the colour": {"subsampling": 0, "quality": 98},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 3},
    "progressive with restarts": {"progressive": True, "restart_marker_blocks": 3},
    "on its side": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"},
}
MODES = ("RGB", "L", "CMYK")


def picture(mode: str) -> Image.Image:
    """Return an image in whose channels no value is constant."""
    if mode != "CMYK":
        return noise(90, 70).convert(mode)
    return Image.merge("CMYK", [noise(90, 70, seed).getchannel(0) for seed in range(4)])


def cuts(data: bytes) -> Iterator[bytes]:
    """Yield files with a cut last scan, also at each restart, that end like a complete file."""
    start = data.rindex(SCAN) + 12
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data[start:])]
    places = [*range(start, len(data) - 4, max(1, (len(data) - start) // 9))]
    for at in [*places, *(start + more for more in restarts[:: max(1, len(restarts) // 5)])]:
        yield data[:at].rstrip(b"\xff") + EOI


def padded(data: bytes) -> bytes:
    """Return the file with bytes before a segment, which cause libjpeg's first warning."""
    at = data.index(b"\xff\xdb")
    return data[:at] + b"pad" + data[at:]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))
def test_a_cut_scan_is_truncated(mode: str, options: dict[str, Any]) -> None:
    whole = encode(picture(mode), "JPEG", **options)

    assert decoded(whole).shape in ((70, 90, 3), (90, 70, 3))
    for data in cuts(whole):
        with pytest.raises(UndecodableImage):
            decoded(data)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))
def test_a_harmless_warning_hides_no_cut(mode: str, options: dict[str, Any]) -> None:
    whole = padded(encode(picture(mode), "JPEG", **options))

    assert decoded(whole).shape in ((70, 90, 3), (90, 70, 3))
    for data in cuts(whole):
        with pytest.raises(UndecodableImage):
            decoded(data)


def revision(data: bytes) -> bytes:
    return data.replace(b"JFIF\0\1\1", b"JFIF\0\0\0")


def adobe_transform(data: bytes) -> bytes:
    return data[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07" + data[2:]


def spectrum(data: bytes) -> bytes:
    at = data.index(SCAN)
    return data[: at + 11] + b"\0\0\0" + data[at + 14 :]


def twice_a_scan(data: bytes) -> bytes:
    return data[:-2] + data[data.rindex(SCAN) :]


HARMLESS = {
    "bytes before a segment": padded,
    "bytes before its end": lambda data: data[:-2] + bytes(range(1, 200)) + EOI,
    "fill before its end": lambda data: data[:-2] + b"\xff" * 300 + EOI,
    "bytes behind its end": lambda data: data + b"a film" * 99,
    "a second image": lambda data: data + data,
    "revision 0.00": revision,
    "another colour transform": adobe_transform,
    "a scan without its spectrum": spectrum,
    "restarts behind its scan": lambda data: data[:-2] + b"\xff\xd0\xff\xd3ab" + EOI,
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("change", HARMLESS.values(), ids=list(HARMLESS))
def test_harmless_damage_is_accepted_as_by_pillow(mode: str, change: Any) -> None:
    data = change(encode(picture(mode), "JPEG"))

    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decoded(data), expected)


def test_a_scan_that_repeats_a_refinement_is_accepted() -> None:
    data = encode(picture("RGB"), "JPEG", progressive=True)

    assert decoded(twice_a_scan(data)).shape == (70, 90, 3)


def test_a_cut_is_detected_if_only_pillow_supports_the_sampling() -> None:
    data = bytearray(encode(picture("RGB"), "JPEG", subsampling=0))
    frame = data.index(b"\xff\xc0")
    for component, factors in enumerate((0x21, 0x12, 0x11)):
        data[frame + 11 + 3 * component] = factors
    odd, start = bytes(data), data.index(SCAN) + 12
    cut = odd[: start + (len(odd) - start) // 5] + EOI

    assert jpeg.decode_straight(odd, "RGB", (90, 70)) is None
    assert decoded(odd).shape == (70, 90, 3)
    with pytest.raises(UndecodableImage):
        decoded(cut)


def three_scans(scans: int) -> bytes:
    """Return a sequential JPEG of three components with one scan each."""
    grey = encode(picture("L"), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(SCAN)
    colour = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, 70, 90, 3)
    colour += b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    parts = (grey[scan : scan + 5] + bytes((n,)) + grey[scan + 6 : -2] for n in (1, 2, 3))
    tables = grey[frame + 13 : scan]
    return grey[:frame] + colour + tables + b"".join(list(parts)[:scans]) + EOI


def test_a_component_without_a_scan_is_missing() -> None:
    assert decoded(three_scans(3)).shape == (70, 90, 3)
    for scans in (1, 2):
        with pytest.raises(UndecodableImage):
            decoded(three_scans(scans))


@pytest.mark.parametrize("data", [b"", b"pad"], ids=["sound", "warned of"])
def test_an_expensive_jpeg_is_decoded_once(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(picture("RGB"), "JPEG")
    whole = whole[:-2] + data + EOI
    monkeypatch.setattr(decode, "load_by_pillow", lambda *_, **__: pytest.fail("decoded again"))

    pixels = decode_source(whole, spec(), lambda size: None, limit_s=4e-4)

    assert isinstance(pixels, np.ndarray)
    for damaged in (whole[:-2], whole[: len(whole) // 2] + EOI):
        with pytest.raises(UndecodableImage):
            decode_source(damaged, spec(), lambda size: None, limit_s=4e-4)
