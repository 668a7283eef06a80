"""Convert a backbone to bf16, fp16 or int8, using calibration images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import onnx

from tidegate.models.data.folders import Split
from tidegate.models.data.outputs import decodable
from tidegate.models.data.rows import Float32
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.precision.bf16 import to_bf16
from tidegate.models.precision.fp16 import to_fp16
from tidegate.models.precision.int8 import RunsOn, to_int8
from tidegate.models.progress import follow
from tidegate.service.bundle.manifest import Precision
from tidegate.service.imaging.spec import PreprocessSpec

_SEEN = 256  # images for the activation ranges
_BATCH = 8


def convert(
    backbone: onnx.ModelProto,
    spec: PreprocessSpec,
    images: Split,
    precision: Precision,
    int8_for: RunsOn = "cpu",
) -> onnx.ModelProto:
    """Return `backbone` in bf16, fp16 or int8; the gate that sealing adds stays in fp32.

    Raises BuildRefused if its numbers do not fit the precision.
    """
    if precision == "bf16":
        return to_bf16(backbone)
    if precision == "fp16":
        return to_fp16(backbone, next(_batches(images, spec)))
    return to_int8(backbone, follow(_batches(images, spec), "Measuring activations"), int8_for)


def _batches(images: Split, spec: PreprocessSpec) -> Iterator[Float32]:
    """Yield the network's input for some images, float32 [up to _BATCH, 3, H, W]."""
    pixels = islice(decodable((item.path for item in images.items), spec), _SEEN)
    while some := list(islice(pixels, _BATCH)):
        yield np.stack([normalised(one, spec) for one in some])
