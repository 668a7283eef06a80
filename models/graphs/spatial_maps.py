"""Find the tensors of a graph that still show where in the image something is, by their grid."""

from __future__ import annotations

import onnx
from onnx import TensorProto

_GRID_MAKERS = {"Conv", "MaxPool", "AveragePool", "QLinearConv"}
Grid = tuple[int, int]  # height, width


def spatial_maps(model: onnx.ModelProto) -> dict[Grid, str]:
    """Return, for every grid above 1 × 1, the last float32 tensor [batch, channels, *grid].

    Only grids that a convolution or a pooling makes count: the attention of a transformer has four
    axes too, but none of them is a place. An empty result means that there are none, or that the
    graph computes them in another type.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    found: dict[Grid, str] = {}
    made: set[Grid] = set()
    for node in graph.node:
        for name in node.output:
            shape = shapes.get(name, ())
            if len(shape) == 4 and shape[2] * shape[3] > 1:
                grid = (shape[2], shape[3])
                found[grid] = name
                if node.op_type in _GRID_MAKERS:
                    made.add(grid)
    return {grid: name for grid, name in found.items() if grid in made}
