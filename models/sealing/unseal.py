"""Take the backbone out of a sealed graph again, to fit another gate on it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import PREFIX

_ENTRY = PREFIX + "scaled"  # the last of sealing's own tensors before the backbone


def unseal(sealed: bytes) -> onnx.ModelProto:
    """Return the backbone of a graph that `tidegate.models.sealing.seal` made.

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


def reseal(sealed: bytes, backbone: onnx.ModelProto) -> bytes:
    """Return a sealed graph with another backbone of the same shapes: its gate stays as it is.

    For measuring only: a gate serves the backbone it was calibrated with.
    """
    model = onnx.load_model_from_string(sealed)
    old = unseal(sealed)
    entry, own_entry = old.graph.input[0].name, backbone.graph.input[0].name
    inside = {name for node in old.graph.node for name in node.output}
    ours = [node for node in model.graph.node if _is_ours(node)]
    head = [node for node in ours if not _leads_to(node, entry, ours)]
    door = [node for node in ours if node not in head]
    constants = [item for item in model.graph.initializer if item.name.startswith(PREFIX)]
    if not inside & {name for node in head for name in node.input}:
        raise BuildRefused("This graph has no gate to keep.")
    for node in door:
        node.output[:] = [own_entry if name == entry else name for name in node.output]
    nodes = [*door, *backbone.graph.node, *head]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*constants, *backbone.graph.initializer])
    del model.opset_import[:]
    model.opset_import.extend(backbone.opset_import)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _leads_to(node: onnx.NodeProto, tensor: str, nodes: list[onnx.NodeProto]) -> bool:
    """Tell whether a tensor is computed from what `node` gives, by `nodes` alone."""
    return any(
        name == tensor
        or any(name in reader.input and _leads_to(reader, tensor, nodes) for reader in nodes)
        for name in node.output
    )


def _is_ours(node: onnx.NodeProto) -> bool:
    return any(name.startswith(PREFIX) for name in (node.name, *node.output))
