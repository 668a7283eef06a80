"""What a bundle makes of an image's outputs: probabilities, the best classes, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tidegate.service.bundle.store import Bundle
from tidegate.service.ood.gates import Verdict
from tidegate.service.types import Float32, Outputs

Probabilities = np.ndarray[tuple[int], np.dtype[np.float64]]  # [classes]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and its probability."""

    class_id: int
    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Decided:
    """The most probable class of one image, the probabilities of all, and the verdict."""

    class_id: int
    probabilities: Probabilities
    verdict: Verdict


def decide(bundle: Bundle, outputs: Outputs) -> Decided:
    """Return what `bundle` makes of the first image of `outputs`."""
    probabilities = softmax(outputs.logits[0], bundle.manifest.calibration.temperature)
    class_id = int(probabilities.argmax())
    verdict = bundle.gate.judge(outputs.scores[0].tolist(), class_id)
    return Decided(class_id, probabilities, verdict)


def best(bundle: Bundle, decided: Decided, outputs: Outputs, top_k: int) -> tuple[Prediction, ...]:
    """Return the `top_k` most probable classes of the first image, the most probable first."""
    logits, probabilities = outputs.logits[0], decided.probabilities
    k = min(top_k, len(logits))
    chosen = logits.argpartition(-k)[-k:]
    if decided.class_id not in chosen:  # several classes have the k-th logit
        chosen[0] = decided.class_id
    ranked = sorted(zip((-probabilities[chosen]).tolist(), chosen.tolist(), strict=True))
    return tuple([Prediction(c, bundle.labels[c], -minus_p) for minus_p, c in ranked])


def softmax(logits: Float32, temperature: float) -> Probabilities:
    """Return calibrated probabilities, float64 [classes]: softmax(logits / T) (Guo et al. 2017)."""
    scaled = np.divide(logits, temperature, dtype=np.float64)
    scaled -= scaled.max()
    exponentials = np.exp(scaled, out=scaled)
    exponentials /= exponentials.sum()
    return exponentials
