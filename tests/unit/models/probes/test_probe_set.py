"""The probe set is large, frozen, and covers cases on which preprocessing differs."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from tidegate.models.probes.probe_set import _probes, probe_set, probe_set_digest

pytestmark = pytest.mark.lengthy  # the first test makes the set


def test_there_are_more_than_200_probes_of_every_format_and_mode() -> None:
    found = set()
    for file in probe_set().values():
        with Image.open(io.BytesIO(file)) as image:
            found.add((image.format, image.mode))

    assert len(probe_set()) >= 200
    assert {format for format, _ in found} == {"JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"}
    assert {mode for format, mode in found if format == "PNG"} == {
        "1",
        "L",
        "LA",
        "P",
        "RGB",
        "RGBA",
        "I;16",
    }
    assert {("JPEG", "L"), ("JPEG", "CMYK"), ("TIFF", "I;16B"), ("TIFF", "F")} <= found


def test_every_exif_orientation_is_there() -> None:
    found = set()
    for file in probe_set().values():
        with Image.open(io.BytesIO(file)) as image:
            found.add(image.getexif().get(0x0112))

    assert set(range(1, 9)) <= found


def test_the_probes_are_the_same_whenever_they_are_made() -> None:
    before = probe_set_digest()
    _probes.cache_clear()

    assert probe_set_digest() == before


def test_another_probe_is_another_digest() -> None:
    files = probe_set()
    files["noise-7x7.png"] = b""

    assert probe_set()["noise-7x7.png"] != b""  # the set itself is not changed by it
