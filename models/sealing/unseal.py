"""Extract the backbone from a sealed graph, to fit another gate or last layer for it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.names import PREFIX
from tidegate.models.importers.base import Imported
from tidegate.models.sealing.shared_layer import separate_last_layer
from tidegate.service.bundle.store import Bundle

_ENTRY = PREFIX + "scaled"  # the last of sealing's own tensors before the backbone


def unseal(sealed: bytes) -> onnx.ModelProto:
    """Return the backbone of a graph made by `tidegate.models.sealing.seal`.

    float32 [batch, 3, H, W] → `logits`, `features`. Raises BuildRefused for any other graph.
    """
    model = onnx.load_model_from_string(sealed)
    graph = model.graph
    separate_last_layer(graph)
    entry_nodes = [node for node in graph.node if _ENTRY in node.input]
    outputs = [value for value in graph.output if value.name in ("logits", "features")]
    if (
        len(entry_nodes) != 1
        or len(outputs) != 2
        or [value.name for value in graph.input] != ["pixels"]
    ):
        raise BuildRefused("This graph was not sealed by Tidegate.")
    _, height, width, _ = (d.dim_value for d in graph.input[0].type.tensor_type.shape.dim)
    kept = [node for node in graph.node if not _is_ours(node)]
    constants = [item for item in graph.initializer if not item.name.startswith(PREFIX)]
    entry = helper.make_tensor_value_info(
        entry_nodes[0].output[0], TensorProto.FLOAT, ["batch", 3, height, width]
    )
    values = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in outputs]
    del graph.node[:], graph.initializer[:], graph.input[:], graph.output[:]
    graph.node.extend(kept)
    graph.initializer.extend(constants)
    graph.input.append(entry)
    graph.output.extend(values)
    onnx.checker.check_model(model, full_check=True)
    return model


def reopened(bundle: Bundle) -> Imported:
    """Return the model of a sealed bundle, with its preprocessing, as an importer would.

    Raises BuildRefused if the graph was not sealed here.
    """
    manifest = bundle.manifest
    return Imported(
        backbone=unseal(bundle.model_path.read_bytes()),
        spec=manifest.preprocess,
        transform=None,
        forward=None,
        source=manifest.provenance.source,
        licence=manifest.provenance.licence,
        checkpoint_sha256=manifest.provenance.checkpoint_sha256,
        labels=bundle.labels,
        precision=manifest.precision,
        notes=(f"The backbone is that of bundle {manifest.name} {manifest.version}.",),
    )


def reseal(sealed: bytes, backbone: onnx.ModelProto) -> bytes:
    """Return a sealed graph with another backbone of the same shapes and an unchanged gate.

    For measurements only: a gate is valid for the backbone that it was calibrated with.
    """
    model = onnx.load_model_from_string(sealed)
    separate_last_layer(model.graph)
    old = unseal(sealed)
    entry, own_entry = old.graph.input[0].name, backbone.graph.input[0].name
    inside = {name for node in old.graph.node for name in node.output}
    ours = [node for node in model.graph.node if _is_ours(node)]
    head = [node for node in ours if not _leads_to(node, entry, ours)]
    entry_nodes = [node for node in ours if node not in head]
    constants = [item for item in model.graph.initializer if item.name.startswith(PREFIX)]
    if not inside & {name for node in head for name in node.input}:
        raise BuildRefused("This graph has no gate to keep.")
    for node in entry_nodes:
        node.output[:] = [own_entry if name == entry else name for name in node.output]
    nodes = [*entry_nodes, *backbone.graph.node, *head]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*constants, *backbone.graph.initializer])
    del model.opset_import[:]
    model.opset_import.extend(backbone.opset_import)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _leads_to(node: onnx.NodeProto, tensor: str, nodes: list[onnx.NodeProto]) -> bool:
    """Return whether `nodes` compute `tensor` from the output of `node`."""
    return any(
        name == tensor
        or any(name in reader.input and _leads_to(reader, tensor, nodes) for reader in nodes)
        for name in node.output
    )


def _is_ours(node: onnx.NodeProto) -> bool:
    return any(name.startswith(PREFIX) for name in (node.name, *node.output))
