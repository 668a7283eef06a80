"""A head with one logit z, trained with binary cross-entropy, as the logits of two classes.

sigmoid(z) is the second probability of softmax([0, z]), so nothing is approximated.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tidegate.models.graphs.session import Array

_NAME = "two_classes"
NOTE = "the single logit z became the logits [0, z] of two classes: absent, present"


def two_classes(logits: Array) -> Array:
    """Return logits [n, C] with a zero before a single one: [n, 2]."""
    if logits.ndim != 2 or logits.shape[1] != 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def add_two_classes(graph: onnx.GraphProto, logit: str) -> str:
    """Add nodes that compute [0, z] [batch, 2] from the tensor `logit`; return their output."""
    column, zero, both = (f"{_NAME}_{part}" for part in ("column", "zero", "logits"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1, 1]), f"{_NAME}_shape"))
    graph.node.extend(
        [
            helper.make_node("Reshape", [logit, f"{_NAME}_shape"], [column], name=column),
            helper.make_node("Sub", [column, column], [zero], name=zero),
            helper.make_node("Concat", [zero, column], [both], name=both, axis=1),
        ]
    )
    return both
