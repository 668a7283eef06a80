"""Recognise well-known formats that are not supported, so that the error can name them. Pure.

Called only for content that is already rejected: it affects only the text of the error.
"""

from __future__ import annotations

import re

ALLOWED = "JPEG, PNG, WebP, BMP, GIF or TIFF"

# Each entry: offset, signature, name.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"%PDF-", "PDF"),
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"8BPS", "A Photoshop document (PSD)"),
    (0, b"gimp xcf", "A GIMP document (XCF)"),
    (0, b"\0\0\x01\0", "An icon (ICO)"),
    (0, b"\0\0\x02\0", "A cursor (CUR)"),
    (0, b"icns", "An icon (ICNS)"),
    (0, b"\x8aMNG\r\n\x1a\n", "MNG"),
    (0, b"\x8bJNG\r\n\x1a\n", "JNG"),
    (0, b"DDS ", "DDS"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"#?RGBE", "Radiance HDR"),
    (0, b"qoif", "QOI"),
    (0, b"FLIF", "FLIF"),
    (0, b"BPG\xfb", "BPG"),
    (0, b"FUJIFILMCCD-RAW", "A raw photograph (RAF)"),
    (0, b"IIRO", "A raw photograph (ORF)"),
    (0, b"IIRS", "A raw photograph (ORF)"),
    (0, b"IIU\0", "A raw photograph (RW2)"),
    (0, b"FOVb", "A raw photograph (X3F)"),
    (0, b"\0MRM", "A raw photograph (MRW)"),
    (128, b"DICM", "DICOM"),
    (0, b"\x1aE\xdf\xa3", "Video (Matroska or WebM)"),
    (8, b"AVI ", "Video (AVI)"),
    (0, b"PK\x03\x04", "A ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed content"),
    (0, b"data:image/", "A data URL"),
    (0, b"/9j/", "Base64 text"),
    (0, b"iVBORw0KGgo", "Base64 text"),
)
_BRANDS = {  # of the ISO base media format, whose first box is called ftyp
    **dict.fromkeys(
        (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
    ),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "A raw photograph (CR3)",
}
_PNM = re.compile(rb"P[1-7][\s#]")
_SVG = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<(?:\?xml|!--).{0,4000}?)?<(?:!DOCTYPE\s+)?svg\b", re.DOTALL
)
_HTML = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)


def other_format(data: bytes) -> str | None:
    """Return the name of a well-known format outside ALLOWED, capitalised; None if unknown."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "Video (MP4)")
    for offset, signature, name in _SIGNATURES:
        if data.startswith(signature, offset):
            return name
    head = data[:8192]
    if _PNM.match(head):
        return "PNM"
    if _SVG.match(head):
        return "SVG"
    return "HTML" if _HTML.match(head) else None
