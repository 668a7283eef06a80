"""A plain model folder for the tests: three classes, one for each dominant colour."""

import json
from pathlib import Path

import onnx
from onnx import TensorProto, helper

SIZE = 16
LABELS = ("red", "green", "blue")


def write_tiny_model(folder: Path, **changes: object) -> Path:
    """Write model.onnx, labels.txt and plain.json (with `changes`) into `folder`."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["means"]),
        helper.make_node("Flatten", ["means"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, str(folder / "model.onnx"))
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n", encoding="utf-8")
    resize = {"op": "resize", "height": SIZE, "width": SIZE, "filter": "bilinear"}
    recipe = {
        "name": "tiny",
        "size": [SIZE, SIZE],
        "steps": [{**resize, "backend": "pillow"}],
        "scale": 1 / 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "channel_order": "rgb",
        **changes,
    }
    (folder / "plain.json").write_text(json.dumps(recipe), encoding="utf-8")
    return folder
