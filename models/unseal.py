"""Take the backbone out of a sealed graph again, to fit another gate on it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from models.errors import BuildRefused
from models.seal import PREFIX

_ENTRY = PREFIX + "scaled"  # the last of sealing's own tensors before the backbone


def unseal(sealed: bytes) -> onnx.ModelProto:
    """Return the backbone of a graph that `models.seal` made.

    float32 [batch, 3, H, W] → `logits`, `features`. Raises BuildRefused for any other graph.
    """
    model = onnx.load_model_from_string(sealed)
    graph = model.graph
    door = [node for node in graph.node if _ENTRY in node.input]
    outputs = [value for value in graph.output if value.name in ("logits", "features")]
    if len(door) != 1 or len(outputs) != 2 or [value.name for value in graph.input] != ["pixels"]:
        raise BuildRefused("This graph was not sealed by Tidegate.")
    _, height, width, _ = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    kept = [node for node in graph.node if not _is_ours(node)]
    constants = [item for item in graph.initializer if not item.name.startswith(PREFIX)]
    entry = helper.make_tensor_value_info(
        door[0].output[0], TensorProto.FLOAT, ["batch", 3, height, width]
    )
    values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    graph.input.append(entry)
    graph.output.extend(values)
    onnx.checker.check_model(model, full_check=True)
    return model


def _is_ours(node: onnx.NodeProto) -> bool:
    return any(name.startswith(PREFIX) for name in (node.name, *node.output))
