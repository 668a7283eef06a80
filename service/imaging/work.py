"""What decoding one image costs: the figures, and their bound. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.geometry import Size

# Every ordinary file of the largest size costs less: 25 megapixels may take 1.5 seconds.
MAX_WORK_S_PER_PIXEL = 60e-9
# Small images with much around them: a profile, some thousand pieces.
MAX_WORK_S_ALWAYS = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """Estimates for decoding and preprocessing one image on the reference core."""

    seconds: float  # of CPU
    interpreter_s: float  # of those, seconds in which Python's interpreter lock is held
    peak_bytes: int  # upper bound of the memory taken at once, the upload not counted


@dataclass(frozen=True, slots=True)
class Found:
    """What a format's header says: every size it declares, the image's own first."""

    sizes: tuple[Size, ...]
    work: Work
    cause: str = ""  # what makes it expensive, for the error text: "64 scans"


def max_work_s(max_image_pixels: int) -> float:
    """Return the CPU seconds that one image may cost under a bound on its pixels."""
    return max(MAX_WORK_S_ALWAYS, max_image_pixels * MAX_WORK_S_PER_PIXEL)


def check_work(found: Found, limit_s: float) -> None:
    """Raise ImageTooLarge when decoding would take more than `limit_s` CPU seconds."""
    if found.work.seconds <= limit_s:
        return
    width, height = found.sizes[0]
    of = f"{found.cause} of " if found.cause else ""
    raise ImageTooLarge(
        f"Decoding this image would take too much work ({of}{width * height / 1e6:.1f} megapixels)."
    )
