"""JPEG: the size from its frame header, and the cost of its scans."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidegate.service.errors import UnsupportedImageType
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.structure import SOI, SOS, end_of_segment, header_segments
from tidegate.service.imaging.work import Found, Work

# Bytes that are searched for scans. A longer file is assumed to have the usual number of scans, or
# the number found if that is larger.
_WINDOW = 1 << 19
# 0xDE declares a size for a hierarchy of frames. Pillow reads the size of each frame header,
# libjpeg only one.
_FRAMES = {*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC}
_ARITHMETIC = {*range(0xC9, 0xD0)} - {0xCC}
_PROGRESSIVE = 0xC2
_EOI = 0xD9
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
_USUAL_SCANS = 10  # libjpeg's progressive script
_SLACK_BYTES = 1 << 22

# Fitted to files of 6 and 25 megapixels (photographs, noise, one colour; one core of a Xeon
# with AVX-512 at 2.1 GHz, where a 500 × 375 JPEG of 33 kB takes 1.2 ms).
_FIXED_S = 2e-4
_CMYK_PIXEL_S = 7e-9
_PIXEL_S = 3.2e-9
_BYTE_S = 16e-9
_PROGRESSIVE_BYTE_S = 50e-9
_VISIT_S = 60e-9  # of one block, in one scan


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame header: its marker, (width, height), and (horizontal, vertical) factors."""

    marker: int
    size: Size
    factors: tuple[tuple[int, int], ...]

    @property
    def blocks(self) -> int:
        """Blocks of 8 × 8 coefficients of all components, rounded up to whole MCUs."""
        across, down = (max((f[i] for f in self.factors), default=1) or 1 for i in (0, 1))
        units = -(-self.size[0] // (8 * across)) * -(-self.size[1] // (8 * down))
        return units * sum(h * v for h, v in self.factors)

    @property
    def largest(self) -> int:
        """Blocks of the largest component; a scan of a progressive JPEG visits one component."""
        total = sum(h * v for h, v in self.factors) or 1
        return self.blocks * max((h * v for h, v in self.factors), default=1) // total


def read(data: bytes) -> Found:
    """Return the size and the work; in a long file the number of scans is estimated.

    Raises ValueError for a second frame header, which could change both. No decoder supports it.
    """
    return _read(data, _WINDOW)


def read_all(data: bytes) -> Found:
    """Like `read`, but count every scan: up to 25 ms for 16 MB, so not on the event loop."""
    return _read(data, len(data))


def _read(data: bytes, window: int) -> Found:
    frame: Frame | None = None
    scanned, at, segments = 0, len(data), 0
    for marker, start, end in header_segments(data):
        segments += 1
        if marker in _FRAMES:
            if frame is not None:
                raise ValueError("two JPEG headers")
            frame = _frame(marker, data[start:end])
        elif marker == SOS:
            scanned, at = data[start], end
    if frame is None:
        raise ValueError("no JPEG header")
    if frame.marker in _ARITHMETIC:
        raise UnsupportedImageType(
            "Arithmetic-coded JPEG is not supported; send Huffman-coded (ordinary) JPEG."
        )
    several = frame.marker == _PROGRESSIVE or scanned < len(frame.factors)
    estimated = several and len(data) > at + window
    scans = _scans(data, at, window) if several else 1
    work = _work(frame, scans, len(data), segments)
    return Found((frame.size,), work, f"{scans} scans" if several else "", estimated)


def _frame(marker: int, body: bytes) -> Frame:
    size = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
    count = body[5]
    factors = tuple((packed >> 4, packed & 15) for packed in body[7 : 6 + 3 * count : 3])
    return Frame(marker, size, factors)


def _scans(data: bytes, at: int, window: int) -> int:
    """Return the scans of the first image in the window; at least _USUAL_SCANS if it goes on."""
    scans, segments, end = 1, 0, at + window
    while (found := _MARKER.search(data, at, end)) and segments < 1_000:
        marker = found[0][1]
        if marker in (SOI, _EOI):
            return scans
        scans, segments = scans + (marker == SOS), segments + 1
        at = end_of_segment(data, found.end())
    return max(scans, _USUAL_SCANS) if len(data) > end else scans


def _work(frame: Frame, scans: int, size: int, segments: int) -> Work:
    pixels = frame.size[0] * frame.size[1]
    several = scans > 1 or frame.marker == _PROGRESSIVE
    seconds = _FIXED_S + pixels * _PIXEL_S + size * (_PROGRESSIVE_BYTE_S if several else _BYTE_S)
    if several:
        seconds += scans * frame.largest * _VISIT_S
    others = pixels * _CMYK_PIXEL_S if len(frame.factors) == 4 else 0.0
    held = 2e-4 + 4e-6 * segments + 0.4e-9 * pixels
    peak = (12 if len(frame.factors) == 4 else 10) * pixels + (128 * frame.blocks if several else 0)
    return Work(seconds + others, held, peak + _SLACK_BYTES)
