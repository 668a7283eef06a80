"""TIFF: its size or that of its tiles, and the work of each compression."""

from __future__ import annotations

from service.imaging.structure import tiff_grid
from service.imaging.work import Found, Work

_FIXED_S = 5e-4
_PIXEL_S = 20e-9
_BYTE_S = 45e-9


def read(data: bytes) -> Found:
    """Return the size, tiles side by side, and the work."""
    grid = tiff_grid(data)
    if grid is None:
        raise ValueError("no TIFF header")
    pixels = grid[0] * grid[1]
    seconds = _FIXED_S + pixels * _PIXEL_S + len(data) * _BYTE_S
    return Found((grid,), Work(seconds, 5e-4 + pixels * 1e-9, 24 * pixels + (1 << 20)))
