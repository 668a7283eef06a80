"""Reading any header takes a limited number of steps, because it runs on the event loop."""

from __future__ import annotations

import contextlib
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tidegate import service
from tidegate.service.errors import RequestError
from tidegate.service.imaging.header import inspect

UPLOAD = 16 << 20
# Lines of Python, at most about 20 ns each without the C code that they call (limited below).
MAX_STEPS = 40_000
MAX_S = 0.25  # fifty times the measured time: machines differ, and coverage slows lines down
_CODE = str(Path(str(service.__file__)).parent)

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBBI", 13, b"IHDR", 9, 9, 8, 2, 0, 0, 0, 0)
GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)


def segment(marker: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def frame(marker: int, components: int = 3) -> bytes:
    return segment(marker, b"\x08\0\x10\0\x10" + bytes((components,)) + b"\1\x11\0" * components)


SOI, SCAN = b"\xff\xd8", segment(0xDA, b"\x01\1\0\0\x3f\0")
PROGRESSIVE = SOI + frame(0xC2) + SCAN


def tiff(tags: list[tuple[int, int, int, int]]) -> bytes:
    """Return the first directory: (tag, type, count, value or offset)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries


SIDES = [(256, 4, 1, 9), (257, 4, 1, 9)]
LISTS = [(tag, 4, 1 << 24, 100) for tag in (273, 324, 279, 325)]
OTHERS = [(tag, 4, 1, 9) for tag in range(400, 1_410)]


Made = Callable[[], bytes]  # when the test runs, because every worker reads this file


def filled(start: bytes, unit: bytes) -> Made:
    """Return what makes an upload of the maximum size that repeats `unit`."""
    return lambda: (start + unit * (UPLOAD // len(unit)))[:UPLOAD]


UPLOADS: dict[str, Made] = {
    "JPEG of frame headers": filled(SOI, frame(0xC0, 255)),
    "JPEG of long frame headers": filled(SOI, segment(0xC0, frame(0xC0, 255)[4:].ljust(65_533))),
    "JPEG of empty segments": filled(SOI, segment(0xE1)),
    "JPEG of long segments": filled(SOI, segment(0xE1, bytes(65_533))),
    "JPEG of segments, then its frame": lambda: SOI + segment(0xE1) * 997 + frame(0xC0) + SCAN,
    "JPEG of padded segments": filled(SOI, b"\xff\0" * 2_000 + segment(0xE1)),
    "JPEG of one fill": filled(SOI, b"\xff"),
    "JPEG of escapes": filled(SOI, b"\xff\0"),
    "JPEG of junk": filled(SOI + b"\xff\xe1\0\2", b"a"),
    "JPEG of filled scans": filled(PROGRESSIVE, b"\xff"),
    "JPEG of escaped scans": filled(PROGRESSIVE, b"\xff\0"),
    "JPEG of restarts": filled(PROGRESSIVE, b"\xff\xd0"),
    "JPEG of segments and filled scans": filled(
        SOI + segment(0xE1) * 997 + PROGRESSIVE[2:], b"\xff"
    ),
    "JPEG of scans": filled(PROGRESSIVE, SCAN),
    "JPEG of tables among its scans": filled(PROGRESSIVE, segment(0xC4)),
    "PNG of empty chunks": filled(PNG, struct.pack(">I4sI", 0, b"teSt", 0)),
    "PNG of texts": filled(PNG, struct.pack(">I4sI", 0, b"zTXt", 0)),
    "PNG of nothing": filled(PNG, b"\0"),
    "GIF of junk": filled(GIF, b"a"),
    "GIF of empty blocks": filled(GIF + b"!\xf9", b"\0"),
    "GIF of comments": filled(GIF, b"!\xfe\1a\0"),
    "GIF of loops": filled(GIF, b"!\xff\x0bNETSCAPE2.0\0\0"),
    "GIF of one comment": filled(GIF + b"!\xfe", b"\1a"),
    "GIF of blocks, then its frame": lambda: GIF + b"!\xfe" + b"\1a" * 4_000 + b"\0," + bytes(9),
    "TIFF of long lists": filled(tiff([*SIDES, (258, 3, 65535, 100), *LISTS]), b"\1"),
    "TIFF of long lists and many tags": filled(
        tiff([*SIDES, (258, 3, 65535, 13000), *LISTS, *OTHERS]), b"\1"
    ),
    "TIFF of many tags": filled(tiff(SIDES + OTHERS), b"\1"),
    "TIFF of too many tags": filled(tiff(SIDES * 32_000), b"\1"),
    "TIFF of nothing": filled(tiff([]), b"\0"),
    "WebP": filled(b"RIFF\0\0\0\0WEBPVP8X", b"\0"),
    "BMP": filled(b"BM" + bytes(12) + struct.pack("<IiiHHII", 40, 9, 9, 1, 24, 0, 0), b"\0"),
    "text": filled(b"<!--", b"<svg"),
    "space": filled(b"   ", b" "),
}


def read(data: bytes) -> None:
    with contextlib.suppress(RequestError):
        inspect(data, lambda size: None)


def steps(data: bytes) -> int:
    """Return how many lines of the service's code run while the header is read."""
    count = 0

    def trace(at: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not at.f_code.co_filename.startswith(_CODE):
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read(data)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("made", UPLOADS.values(), ids=list(UPLOADS))
def test_the_steps_are_bounded(made: Made) -> None:
    assert 0 < steps(made()) < MAX_STEPS


@pytest.mark.parametrize("made", UPLOADS.values(), ids=list(UPLOADS))
def test_the_time_is_bounded(made: Made) -> None:
    data = made()

    def taken_s() -> float:
        start = time.thread_time()
        read(data)
        return time.thread_time() - start

    assert min(taken_s() for _ in range(3)) < MAX_S
