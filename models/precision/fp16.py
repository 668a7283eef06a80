"""Convert a backbone to float16, with typed tensors and explicit casts as TensorRT requires."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import quiet_session
from tidegate.models.precision.activations import observe

LARGEST = float(np.finfo(np.float16).max)  # 65504
# Relative to the largest logit, on ONNX Runtime's CPU: float16 has 11 bits, and errors add up.
TOLERANCE = 2e-2
_ADVICE = "use fp32, or int8 for speed on a CPU"


def to_fp16(backbone: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """Return `backbone` in float16; inputs and outputs stay float32, and the batch stays dynamic.

    `images` [b, 3, H, W], normalised, check for overflow: on them, all tensors of the float32 graph
    must fit float16 (a CPU may compute in float32 and hide an overflow). Raises BuildRefused if a
    weight or a tensor does not fit, or the logits differ by more than TOLERANCE.
    """
    _check_weights(backbone.graph)
    _check_tensors(backbone, images)
    work = onnx.ModelProto()
    work.CopyFrom(backbone)
    half: onnx.ModelProto = convert_float_to_float16(work, keep_io_types=True)
    ONNXModel(half).topological_sort()  # the converter appends its casts
    onnx.checker.check_model(half, full_check=True)
    expected, got = _logits(backbone, images), _logits(half, images)
    difference = float(np.max(np.abs(got - expected)) / np.max(np.abs(expected)))
    if not difference <= TOLERANCE:  # so that NaN fails
        raise BuildRefused(
            f"float16 changes the logits by {difference:.2g} of the largest logit: {_ADVICE}."
        )
    return half


def _check_weights(graph: onnx.GraphProto) -> None:
    constants = [(item.name, item) for item in graph.initializer]
    constants += [
        (node.name or node.output[0], attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if attribute.type == onnx.AttributeProto.TENSOR
    ]
    for name, tensor in constants:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims):
            largest = float(np.max(np.abs(numpy_helper.to_array(tensor))))
            if not largest <= LARGEST:
                raise BuildRefused(
                    f"The weights {name!r} reach {largest:.3g}, out of float16's range: {_ADVICE}."
                )


def _check_tensors(backbone: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    for name, (low, high) in observe(backbone, [images]).ranges.items():
        if max(-low, high) > LARGEST:
            raise BuildRefused(
                f"The tensor {name!r} reaches {max(-low, high):.3g} on the calibration images, "
                f"out of float16's range: {_ADVICE}."
            )


def _logits(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    session = quiet_session(model.SerializeToString())
    return np.asarray(session.run(["logits"], {session.get_inputs()[0].name: images})[0])
