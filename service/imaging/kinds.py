"""Which image format bytes are, by their first few."""

from __future__ import annotations

from service.errors import UnsupportedImageType

_ALLOWED = "JPEG, PNG, WebP, BMP, GIF or TIFF"


def sniff(data: bytes) -> str:
    """Return Pillow's name of the image format in `data`, by its first bytes.

    Raises UnsupportedImageType when it is not one of the allowed formats.
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
    if head.startswith(b"BM"):
        return "BMP"
    raise UnsupportedImageType(f"The content is not {_ALLOWED}.")
