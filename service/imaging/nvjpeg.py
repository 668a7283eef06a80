"""Decode JPEGs on the GPU: nvJPEG through nvImageCodec, for bundles that were sealed with it.

Its pixels differ from libjpeg-turbo's. So a bundle's spec says which of the two decodes its JPEGs,
and neither ever replaces the other. Only colour JPEGs are decoded here; grey and CMYK JPEGs and the
other formats are Pillow's with both decoders.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.errors import EngineFailed, UndecodableImage
from tidegate.service.imaging.completeness import has_end
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.spec import PreprocessSpec

log = logging.getLogger(__name__)

_MODULE = "nvidia.nvimgcodec"
_EXTRA = "tidegate[nvjpeg]"
# As libjpeg-turbo does, it interpolates chroma; without it the difference is larger.
_OPTIONS = ":fancy_upsampling=1"


class _Decoders(threading.local):
    """One decoder per thread: nvImageCodec does not say that threads may share one."""

    one: Any = None


_decoders = _Decoders()


def why_unavailable(spec: PreprocessSpec) -> str:
    """Return why the decoder of a spec cannot be used here; "" if it can."""
    if spec.decoder == "pillow":
        return ""
    try:
        _codec()
    except (ImportError, OSError) as error:
        return f"nvImageCodec cannot be imported ({error}): install {_EXTRA}"
    try:
        _decoder()
    except Exception as error:  # noqa: BLE001 - without a GPU it is a RuntimeError
        return f"nvJPEG cannot be used: {error}"
    return ""


def decode(data: bytes, size: Size) -> NDArray[np.uint8]:
    """Decode a colour JPEG of `size` (width, height); return uint8 [H, W, 3], not turned.

    Raises UndecodableImage if nvJPEG does not decode it, and EngineFailed if the GPU fails.
    """
    if not has_end(data):  # nvJPEG may fill what is missing without a word
        raise UndecodableImage("The JPEG data is truncated: it has no end marker.")
    try:
        codec = _codec()
        image = _decoder().decode(codec.CodeStream(data), params=_parameters())
        pixels = None if image is None else np.ascontiguousarray(image.cpu())
    except Exception as error:
        log.error("nvJPEG failed: %s", error)  # noqa: TRY400 - the client's error has its frames
        raise EngineFailed("The GPU could not decode the image.") from error
    if pixels is None:
        raise UndecodableImage("nvJPEG cannot decode this JPEG.")
    if pixels.shape != (size[1], size[0], 3) or pixels.dtype != np.uint8:
        raise UndecodableImage("The JPEG's pixels are not those that its header declares.")
    return pixels


def _decoder() -> Any:
    if _decoders.one is None:
        codec = _codec()
        # The backend that uses the CPU and CUDA. Others, which would give other pixels, are
        # excluded: GPUs with a hardware decoder use that for some files only.
        backend = codec.Backend(codec.BackendKind.HYBRID_CPU_GPU)
        _decoders.one = codec.Decoder(max_num_cpu_threads=1, backends=[backend], options=_OPTIONS)
    return _decoders.one


@lru_cache(maxsize=1)
def _parameters() -> Any:
    codec = _codec()
    return codec.DecodeParams(
        apply_exif_orientation=False,  # the spec decides
        color_spec=codec.ColorSpec.SRGB,
        sample_format=codec.SampleFormat.I_RGB,
    )


@lru_cache(maxsize=1)
def _codec() -> Any:
    os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")  # it writes what clients send to stderr
    return importlib.import_module(_MODULE)
