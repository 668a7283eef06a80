"""A small sealed graph that is built in a test: one convolution, four classes, six features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tidegate.models.precision.bf16 import to_bf16
from tidegate.models.precision.fp16 import to_fp16
from tidegate.models.precision.int8 import RunsOn, to_int8
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.seal import seal
from tidegate.service.imaging.spec import PreprocessSpec, Resize

SIDE = 8
CLASSES = 4
FEATURES = 6
ENERGY_TEMPERATURE = 0.5

SPEC = PreprocessSpec(
    exif_orientation="apply",
    alpha="drop",
    sixteen_bit="scale",
    steps=(Resize(height=SIDE, width=SIDE, filter="bicubic"),),
    channel_order="rgb",
    scale=1.0,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)


def head(seed: int = 0) -> GateHead:
    """Return a gate head with whitening, on normalised features."""
    rng = np.random.default_rng([seed, 1])
    return GateHead(
        energy_temperature=ENERGY_TEMPERATURE,
        centre=rng.normal(size=FEATURES),
        whitening=rng.normal(size=(FEATURES, FEATURES - 1)),
        means=rng.normal(size=(CLASSES, FEATURES - 1)),
        normalise=True,
    )


def sealed(seed: int = 0) -> bytes:
    """Return the sealed graph's bytes; the same seed gives the same bytes."""
    return seal(_backbone(seed), SPEC, head(seed))


def sealed_in(precision: str, runs_on: RunsOn = "cpu") -> bytes:
    """Return the sealed graph with its convolution in another precision."""
    rng = np.random.default_rng(2)
    images = rng.uniform(-1, 1, (16, 3, SIDE, SIDE)).astype(np.float32)
    converted: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
        "fp32": lambda backbone: backbone,
        "bf16": to_bf16,
        "fp16": partial(to_fp16, images=images),
        "int8": partial(to_int8, batches=[images], runs_on=runs_on),
    }
    return seal(converted[precision](_backbone(0)), SPEC, head())


def _backbone(seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng([seed, 0])
    weights = {
        "kernel": rng.normal(size=(FEATURES, 3, 3, 3)),
        "weight": 3 * rng.normal(size=(CLASSES, FEATURES)),
        "bias": rng.normal(size=CLASSES),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["map"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["map"], ["rectified"]),
            helper.make_node("GlobalAveragePool", ["rectified"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
            helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", FEATURES]),
        ],
        [
            numpy_helper.from_array(np.asarray(value, np.float32), name)
            for name, value in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
