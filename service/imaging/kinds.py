"""Determine an image's format from its bytes, and the error that best explains a failed decode."""

from __future__ import annotations

from tidegate.service.errors import RequestError, UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.other_formats import ALLOWED, other_format
from tidegate.service.imaging.unsupported import unsupported_feature


def sniff(data: bytes) -> str:
    """Return Pillow's name of the image format of `data`, by its first bytes.

    Raises UnsupportedImageType if it is not one of the allowed formats.
    """
    head = data[:12]
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if head.startswith(b"BM") and b"\0" in data[:18]:  # as in any header size; text has none
        return "BMP"
    if name := other_format(data):
        raise UnsupportedImageType(f"{name} is not supported; send {ALLOWED}.")
    raise UnsupportedImageType(f"The content is not {ALLOWED}.")


def undecodable(kind: str, data: bytes) -> RequestError:
    """Return the error for data of a known kind that cannot be decoded."""
    if reason := unsupported_feature(kind, data):
        return UnsupportedImageType(reason)
    return UndecodableImage(f"The {kind} data is truncated or corrupt.")
