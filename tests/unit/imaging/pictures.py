"""Generated images: every format, malicious headers, and the two spec families."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.service.imaging.decode import Size, decode
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000


def spec(*steps: dict[str, Any], **changes: Any) -> PreprocessSpec:
    """Return a spec with these steps, or a plain resize to 8 × 8."""
    fields: dict[str, Any] = {
        "exif_orientation": "apply",
        "alpha": "drop",
        "sixteen_bit": "scale",
        "steps": steps or (resize(8, 8),),
        "channel_order": "rgb",
        "scale": 1.0,
        "mean": (127.0, 127.0, 127.0),
        "std": (128.0, 128.0, 128.0),
    }
    return PreprocessSpec.model_validate(fields | changes)


def resize(height: int, width: int, filter: str = "bicubic") -> dict[str, Any]:
    return {"op": "resize", "height": height, "width": width, "filter": filter}


def crop_fraction_then_resize(size: int) -> PreprocessSpec:
    """The spec of TensorFlow's EfficientNets: centre crop of 224/256, then bicubic resize."""
    crop = {
        "op": "centre-crop-fraction",
        "numerator": 7,
        "denominator": 8,
        "offset": "ceil",
    }
    return spec(crop, resize(size, size))


def resize_then_crop(short: int, crop: Size) -> PreprocessSpec:
    """The spec of torchvision's presets: resize the shortest edge, then centre crop."""
    edge = {
        "op": "resize-shortest-edge",
        "size": short,
        "rounding": "truncate",
        "filter": "bilinear",
    }
    cut = {"op": "centre-crop", "height": crop[1], "width": crop[0], "offset": "half-even"}
    return spec(edge, cut)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an RGB image of noise, so that any shifted pixel is detected."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return the image encoded as a file; WebP is lossless."""
    file = io.BytesIO()
    image.save(file, format, **({"lossless": True} if format == "WEBP" else {}) | options)
    return file.getvalue()


def encode_any(image: Image.Image, format: str) -> bytes:
    """Like `encode`, converted to the nearest mode that the format supports."""
    return encode(image.convert("P") if format == "GIF" else image, format)


def decoded(data: bytes, rules: PreprocessSpec | None = None) -> NDArray[np.uint8]:
    """Return a file decoded by `decode` without a size limit, [H, W, 3]."""
    image = decode(data, rules or spec(), lambda size: None)
    assert image.mode == "RGB"
    return np.asarray(image)


def preprocessed(data: bytes, rules: PreprocessSpec | None = None) -> Pixels:
    return preprocess(data, rules or spec(), MAX_PIXELS)


def png(
    size: Size,
    depth: int,
    colour: int,
    rows: bytes = b"",
    extra: Sequence[tuple[bytes, bytes]] = (),
    late: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return a hand-made PNG with `extra` chunks before the pixels and `late` ones after them."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), *late, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def png_rows(values: NDArray[np.unsignedinteger]) -> bytes:
    """Return unfiltered PNG scanlines of [H, W, …] samples, 8 or 16 bits, big-endian."""
    rows = values.astype(values.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in rows)


def tiff(tags: Mapping[int, tuple[int, Sequence[int]]], tail: bytes = b"") -> bytes:
    """Return a hand-made little-endian TIFF: tag → (type 3 or 4, values), then `tail`."""
    entries, extra = b"", b""
    start = 8 + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            where, extra = struct.pack("<I", start + len(extra)), extra + packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(values)) + where
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + bytes(4) + extra + tail


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a WebP container of these chunks."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body
