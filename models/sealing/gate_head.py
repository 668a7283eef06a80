"""The gate's parameters, and the graph nodes that compute its scores.

The arithmetic is that of `tidegate.service.ood.scores`, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tidegate.models import exact
from tidegate.models.graphs.builder import Builder, kind_of, tensor
from tidegate.models.graphs.names import OUTPUTS
from tidegate.service.ood.scores import Float64, mahalanobis_score

_OPSET = 17


@dataclass(frozen=True, slots=True)
class GateHead:
    """The fitted parameters of both scores, as in `tidegate.service.ood.scores`."""

    energy_temperature: float
    centre: NDArray[np.floating]  # [D]
    whitening: NDArray[np.floating] | None  # [D, D']
    means: NDArray[np.floating]  # [classes, D'], in the whitened space
    normalise: bool
    offset: NDArray[np.floating] | None = None  # [D], subtracted after normalising
    background: NDArray[np.floating] | None = None  # [D, D″], for a relative distance

    def distance(self, features: NDArray[np.floating]) -> tuple[Float64, NDArray[np.int64]]:
        """Return the float64 score and the nearest class of each row of `features` [batch, D]."""
        return mahalanobis_score(
            features,
            self.centre,
            self.whitening,
            self.means,
            normalise=self.normalise,
            offset=self.offset,
            background=self.background,
        )


def head_graph(head: GateHead) -> bytes:
    """Return the gate head as a graph: `logits` and `features` in, the three scores out.

    The nodes are those that `seal` adds, so stored outputs get the same scores as when serving.
    """
    builder = Builder(_OPSET)
    add_energy(builder, head.energy_temperature)
    add_mahalanobis(builder, head)
    shapes = {"logits": len(head.means), "features": len(head.centre)}
    graph = helper.make_graph(
        builder.take_nodes(),
        "tidegate-head",
        [tensor(name, TensorProto.FLOAT, ["batch", width]) for name, width in shapes.items()],
        [tensor(name, kind_of(name), ["batch"]) for name in OUTPUTS[2:]],
        builder.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def add_energy(b: Builder, temperature: float) -> None:
    """Add −T·(peak + log Σ exp(logits/T − peak)); ReduceLogSumExp may not subtract the peak."""
    scaled = b.step("Div", ["logits", b.constant("temperature", temperature)], "scaled_logits")
    peak = b.reduce("ReduceMax", scaled, "peak")
    shifted = b.step("Sub", [scaled, peak], "shifted")
    total = b.reduce("ReduceSum", b.step("Exp", [shifted], "exponentials"), "total")
    log = b.step("Add", [b.step("Log", [total], "log_total"), peak], "log_sum_exp")
    minus_t = b.step("Mul", [log, b.constant("minus_temperature", -temperature)], "energy_column")
    b.reduce("ReduceSum", minus_t, "energy", keep=False, final=True)  # [batch, 1] → [batch]


def add_mahalanobis(b: Builder, head: GateHead) -> None:
    """Centre, normalise and whiten; find the nearest mean by one GEMM; compute its distance."""
    z = b.step("Sub", ["features", b.constant("centre", head.centre)], "centred")
    if head.normalise:
        square = b.reduce("ReduceSum", b.step("Mul", [z, z], "centred_squared"), "length_squared")
        length = b.step("Sqrt", [square], "length")
        length = b.step("Max", [length, b.constant("tiny", 1e-12)], "length_floored")
        z = b.step("Div", [z, length], "unit")
    if head.offset is not None:
        z = b.step("Sub", [z, b.constant("offset", head.offset)], "offset_removed")
    x = z
    if head.whitening is not None:
        x = b.step("MatMul", [z, b.constant("whitening", head.whitening)], "whitened")
    m = np.asarray(head.means, np.float64)
    means = b.constant("means", m)
    constant = b.constant("mean_offset", -0.5 * exact.row_sums(m * m))
    # argmin |x − m|² = argmax x·m − |m|²/2: |x|² is the same for every class.
    likeness = b.step("Gemm", [x, means, constant], "likeness", transB=1)
    nearest = b.node("ArgMax", [likeness], "nearest_class", axis=1, keepdims=0)
    difference = b.step("Sub", [x, b.step("Gather", [means, nearest], "winner")], "difference")
    squared = b.step("Mul", [difference, difference], "difference_squared")
    if head.background is None:
        b.reduce("ReduceSum", squared, "mahalanobis", keep=False, final=True)
        return
    to_class = b.reduce("ReduceSum", squared, "to_class", keep=False)
    y = b.step("MatMul", [z, b.constant("background", head.background)], "background_whitened")
    to_all = b.reduce("ReduceSum", b.step("Mul", [y, y], "y_squared"), "to_all", keep=False)
    b.node("Sub", [to_class, to_all], "mahalanobis")
