"""The estimated cost of decoding one image, and its limit. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.geometry import Size

# Every ordinary file of the maximum size costs less. 25 megapixels may take 1.5 s.
MAX_WORK_S_PER_PIXEL = 60e-9
# For small images with much metadata, such as a profile, or with some thousand pieces.
MAX_WORK_S_ALWAYS = 0.1


@dataclass(frozen=True, slots=True)
class Work:
    """Estimates for decoding and preprocessing one image on the reference core."""

    seconds: float  # CPU time
    interpreter_s: float  # the part of it with Python's interpreter lock held
    peak_bytes: int  # upper limit of the memory in use, without the upload


@dataclass(frozen=True, slots=True)
class Found:
    """A parsed header: every size that the file declares, the image's own first."""

    sizes: tuple[Size, ...]
    work: Work
    cause: str = ""  # the reason for a high cost, for the error text: "64 scans"
    estimated: bool = False  # the work, because the file is too long to read all of it


def max_work_s(max_image_pixels: int) -> float:
    """Return the maximum CPU seconds for one image under a limit on its pixels."""
    return max(MAX_WORK_S_ALWAYS, max_image_pixels * MAX_WORK_S_PER_PIXEL)


def check_work(found: Found, limit_s: float) -> None:
    """Raise ImageTooLarge if decoding would take more than `limit_s` CPU seconds."""
    if found.work.seconds <= limit_s:
        return
    width, height = found.sizes[0]
    of = f"{found.cause} of " if found.cause else ""
    raise ImageTooLarge(
        f"Decoding this image would take too much work ({of}{width * height / 1e6:.1f} megapixels)."
    )
