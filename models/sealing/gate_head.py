"""The gate's parameters, and the graph nodes that compute its scores.

The arithmetic is that of `tidegate.service.ood.scores`, in float32.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tidegate.models import exact
from tidegate.models.graphs.builder import Builder, kind_of, tensor
from tidegate.models.sealing.score_heads import Energy, Kept, ScoreHead
from tidegate.service.ood.scores import Float64, energy_score, mahalanobis_score
from tidegate.service.types import ENERGY, MAHALANOBIS

_OPSET = 17


@dataclass(frozen=True, slots=True)
class GateHead:
    """The fitted parameters of the scores, as in `tidegate.service.ood.scores`."""

    energy_temperature: float
    centre: NDArray[np.floating]  # [D]
    whitening: NDArray[np.floating] | None  # [D, D']
    means: NDArray[np.floating]  # [classes, D'], in the whitened space
    normalise: bool
    offset: NDArray[np.floating] | None = None  # [D], subtracted after normalising
    background: NDArray[np.floating] | None = None  # [D, D″], for a relative distance
    basis: NDArray[np.floating] | None = None  # [D, k], of a distance of reduced rank
    residual: float = 0.0  # factor of the squared length outside the basis
    others: Mapping[str, ScoreHead] = field(default_factory=dict)  # name → score

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the columns of `scores`."""
        return (ENERGY, MAHALANOBIS, *self.others)

    def scores(
        self, logits: NDArray[np.floating], features: NDArray[np.floating]
    ) -> tuple[Float64, NDArray[np.int64]]:
        """Return all scores in float64, [batch, S], and the nearest class of each row."""
        distance, nearest = self.distance(features)
        others = [score.reference(logits, features) for score in self.others.values()]
        energy = energy_score(logits, self.energy_temperature)
        return np.stack([energy, distance, *others], axis=1), nearest

    def with_classes(self, kept: Kept) -> GateHead:
        """Return the head of a model that has only the classes `kept`, [classes] of bool."""
        others = {name: score.with_classes(kept) for name, score in self.others.items()}
        return replace(self, means=self.means[kept], others=others)

    def with_scores(self, names: Container[str]) -> GateHead:
        """Return the head with only these of the other scores."""
        others = {name: score for name, score in self.others.items() if name in names}
        return replace(self, others=others)

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
            basis=self.basis,
            residual=self.residual,
        )


def head_graph(head: GateHead) -> bytes:
    """Return the gate head as a graph: `logits` and `features` in, scores and nearest class out.

    The nodes are those that `seal` adds, so stored outputs get the same scores as when serving.
    """
    builder = Builder(_OPSET)
    add_scores(builder, head)
    shapes = {"logits": len(head.means), "features": len(head.centre)}
    graph = helper.make_graph(
        builder.take_nodes(),
        "tidegate-head",
        [tensor(name, TensorProto.FLOAT, ["batch", width]) for name, width in shapes.items()],
        [
            tensor("scores", kind_of("scores"), ["batch", len(head.names)]),
            tensor("nearest_class", kind_of("nearest_class"), ["batch"]),
        ],
        builder.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
    model.ir_version = 9
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def add_scores(b: Builder, head: GateHead) -> None:
    """Add the nodes of every score, as the columns of `scores`, and of the nearest class."""
    columns = [Energy(head.energy_temperature).add(b, ENERGY), _add_mahalanobis(b, head)]
    columns += [score.add(b, name) for name, score in head.others.items()]
    b.node("Concat", columns, "scores", axis=1)


def _add_mahalanobis(b: Builder, head: GateHead) -> str:
    """Centre, normalise and whiten; find the nearest mean by one GEMM; compute its distance."""
    z = b.step("Sub", ["features", b.constant("centre", head.centre)], "centred")
    if head.normalise:
        square = b.reduce("ReduceSum", b.step("Mul", [z, z], "centred_squared"), "length_squared")
        length = b.step("Sqrt", [square], "length")
        length = b.step("Max", [length, b.constant("tiny", 1e-12)], "length_floored")
        z = b.step("Div", [z, length], "unit")
    if head.offset is not None:
        z = b.step("Sub", [z, b.constant("offset", head.offset)], "offset_removed")
    rest = None
    if head.basis is not None:
        z, rest = _add_projection(b, z, head.basis, head.residual)
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
    if head.background is None and rest is None:
        return b.reduce("ReduceSum", squared, MAHALANOBIS)
    to_class = b.reduce("ReduceSum", squared, "to_class")
    if rest is not None:
        name = MAHALANOBIS if head.background is None else "to_class_and_rest"
        to_class = b.step("Add", [to_class, rest], name)
    if head.background is None:
        return to_class
    y = b.step("MatMul", [z, b.constant("background", head.background)], "background_whitened")
    to_all = b.reduce("ReduceSum", b.step("Mul", [y, y], "y_squared"), "to_all")
    return b.step("Sub", [to_class, to_all], MAHALANOBIS)


def _add_projection(
    b: Builder, z: str, basis: NDArray[np.floating], residual: float
) -> tuple[str, str]:
    """Add the coordinates along the basis, and `residual` times the squared length of the rest."""
    along = b.step("MatMul", [z, b.constant("basis", basis)], "along")
    lengths = [
        b.reduce("ReduceSum", b.step("Mul", [x, x], f"{name}_squared"), f"{name}_length")
        for name, x in (("whole", z), ("along", along))
    ]
    rest = b.step("Sub", lengths, "rest")
    return along, b.step("Mul", [rest, b.constant("residual", residual)], "weighted_rest")
