"""The progress of a command that takes long, on stderr."""

from __future__ import annotations

import sys

_BAR = 30  # characters


def draw_progress(phase: str, done: int, steps: int) -> None:
    """Draw a progress bar on a terminal; elsewhere print a line for each phase."""
    if sys.stderr.isatty():
        width = _BAR * done // max(1, steps)
        end = "\n" if done >= steps else ""
        print(f"\r{phase:.40} [{'#' * width:{_BAR}}]", end=end, file=sys.stderr, flush=True)
    elif done >= steps:
        print(phase, file=sys.stderr)
