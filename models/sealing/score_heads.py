"""Single OOD scores: their float64 reference, and the nodes that compute them in float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tidegate.models.graphs.builder import Builder
from tidegate.models.graphs.names import PREFIX
from tidegate.service.ood.scores import (
    ENTROPY_CLASSES,
    ENTROPY_POWER,
    Float64,
    clipped_energy_score,
    energy_score,
    entropy_score,
    linear_score,
)

CLIPPED_LOGITS = PREFIX + "clipped_logits"
Floats = NDArray[np.floating]
Kept = NDArray[np.bool_]


class ScoreHead(Protocol):
    """A fitted score of the graph's `logits` and `features`; higher is more unusual."""

    def reference(self, logits: Floats, features: Floats) -> Float64:
        """Return the score in float64, [batch]."""
        ...

    def add(self, b: Builder, name: str) -> str:
        """Add the nodes that compute it, and return the name of its column [batch, 1]."""
        ...

    def with_classes(self, kept: Kept) -> ScoreHead:
        """Return the score of a model that has only the classes `kept`, [classes] of bool."""
        ...


@dataclass(frozen=True, slots=True)
class Energy:
    """The free energy of the logits."""

    temperature: float

    def reference(self, logits: Floats, features: Floats) -> Float64:
        return energy_score(logits, self.temperature)

    def add(self, b: Builder, name: str) -> str:
        return _energy(b, "logits", self.temperature, name)

    def with_classes(self, kept: Kept) -> Energy:
        return self


@dataclass(frozen=True, slots=True)
class Entropy:
    """The generalised entropy of the probabilities."""

    classes: int

    def reference(self, logits: Floats, features: Floats) -> Float64:
        return entropy_score(logits)

    def add(self, b: Builder, name: str) -> str:
        # Subtracting the peak first keeps the digits of the probabilities that count.
        largest, _, log_total = _softmax_parts(b, "logits", name)
        if self.classes > ENTROPY_CLASSES:
            k = b.constant(f"{name}_count", [ENTROPY_CLASSES])
            largest = b.first_output("TopK", [largest, k], f"{name}_largest", axis=1)
        log_p = b.step("Sub", [largest, log_total], f"{name}_log_p")
        power = b.constant(f"{name}_power", ENTROPY_POWER)
        scaled = b.step("Mul", [log_p, power], f"{name}_powers_log")
        return b.reduce("ReduceSum", b.step("Exp", [scaled], f"{name}_powers"), name)

    def with_classes(self, kept: Kept) -> Entropy:
        return Entropy(int(kept.sum()))


@dataclass(frozen=True, slots=True)
class ClippedEnergy:
    """The energy of the logits of clipped features (ReAct)."""

    ceiling: float
    weights: Floats  # [classes, D], the network's last layer
    bias: Floats  # [classes]

    def reference(self, logits: Floats, features: Floats) -> Float64:
        return clipped_energy_score(features, self.ceiling, self.weights, self.bias)

    def add(self, b: Builder, name: str) -> str:
        ceiling = b.constant(f"{name}_ceiling", self.ceiling)
        clipped = b.step("Min", ["features", ceiling], f"{name}_features")
        weights = b.constant(f"{name}_weights", self.weights)
        bias = b.constant(f"{name}_bias", self.bias)
        logits = b.node("Gemm", [clipped, weights, bias], CLIPPED_LOGITS, transB=1)
        return _energy(b, logits, 1.0, name)

    def with_classes(self, kept: Kept) -> ClippedEnergy:
        return replace(self, weights=self.weights[kept], bias=self.bias[kept])


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear function of the features."""

    direction: Floats  # [D]

    def reference(self, logits: Floats, features: Floats) -> Float64:
        return linear_score(features, self.direction)

    def add(self, b: Builder, name: str) -> str:
        direction = b.constant(f"{name}_direction", self.direction[:, None])
        return b.step("MatMul", ["features", direction], name)

    def with_classes(self, kept: Kept) -> Linear:
        return self


def _energy(b: Builder, logits: str, temperature: float, name: str) -> str:
    """Add −T·(peak + log Σ exp(logits/T − peak)); ReduceLogSumExp may not subtract the peak."""
    scaled = logits
    if temperature != 1:
        t = b.constant(f"{name}_temperature", temperature)
        scaled = b.step("Div", [logits, t], f"{name}_scaled")
    _, peak, log_total = _softmax_parts(b, scaled, name)
    log = b.step("Add", [log_total, peak], f"{name}_log_sum_exp")
    return b.step("Mul", [log, b.constant(f"{name}_minus_temperature", -temperature)], name)


def _softmax_parts(b: Builder, logits: str, name: str) -> tuple[str, str, str]:
    """Add logits − peak, the peak, and log Σ exp(logits − peak); return their names."""
    peak = b.reduce("ReduceMax", logits, f"{name}_peak")
    shifted = b.step("Sub", [logits, peak], f"{name}_shifted")
    exponentials = b.step("Exp", [shifted], f"{name}_exponentials")
    total = b.reduce("ReduceSum", exponentials, f"{name}_total")
    return shifted, peak, b.step("Log", [total], f"{name}_log_total")
