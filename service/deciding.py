"""What a bundle makes of an image's outputs: probabilities, the best classes, and the verdict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tidegate.service.bundle.store import Bundle
from tidegate.service.ood.gates import Verdict
from tidegate.service.types import Float32, Outputs

try:
    from tidegate.service import _softmax
except ImportError:  # installed without a C compiler
    COMPILED = False
else:
    COMPILED = True

_FEW = 32  # values that are found faster by the compiled function

Probabilities = np.ndarray[tuple[int], np.dtype[np.float64]]  # [classes]


class Prediction(NamedTuple):
    """One class and its probability."""

    class_id: int
    label: str
    probability: float


class Decided(NamedTuple):
    """The most probable class of one image, the probabilities of all, and the verdict."""

    class_id: int
    probabilities: Probabilities
    verdict: Verdict


def decide(bundle: Bundle, outputs: Outputs) -> Decided:
    """Return what `bundle` makes of the first image of `outputs`."""
    class_id, probabilities = softmax(outputs.logits[0], bundle.manifest.calibration.temperature)
    verdict = bundle.gate.judge(outputs.scores[0].tolist(), class_id)
    return Decided(class_id, probabilities, verdict)


def best(bundle: Bundle, decided: Decided, top_k: int) -> tuple[Prediction, ...]:
    """Return the `top_k` most probable classes, the most probable first.

    Of equally probable classes the one with the lowest id is first.
    """
    probabilities = decided.probabilities
    chosen = largest(probabilities, min(top_k, len(probabilities)))
    return tuple([Prediction(c, bundle.labels[c], float(probabilities[c])) for c in chosen])


def softmax(logits: Float32, temperature: float) -> tuple[int, Probabilities]:
    """Return the most probable class and calibrated probabilities, softmax(logits / T), [classes].

    The temperature is that of Guo et al. 2017.
    """
    if COMPILED and logits.flags.c_contiguous:
        probabilities = np.empty(len(logits))
        return _softmax.softmax(logits, temperature, probabilities), probabilities
    return softmax_by_numpy(logits, temperature)


def softmax_by_numpy(logits: Float32, temperature: float) -> tuple[int, Probabilities]:
    """Return the same, using only NumPy."""
    scaled = np.divide(logits, temperature, dtype=np.float64)
    scaled -= scaled.max()
    exponentials = np.exp(scaled, out=scaled)
    exponentials /= exponentials.sum()
    return int(exponentials.argmax()), exponentials


def largest(values: Probabilities, count: int) -> list[int]:
    """Return the indices of the `count` largest values, the largest first, equal ones by index."""
    if COMPILED and count <= _FEW:
        return _softmax.largest(values, count)
    return largest_by_numpy(values, count)


def largest_by_numpy(values: Probabilities, count: int) -> list[int]:
    """Return the same, using only NumPy."""
    least = values[values.argpartition(-count)[-count]]
    candidates = np.flatnonzero(values >= least)  # more than `count` if some are equal
    order = np.argsort(-values[candidates], kind="stable")[:count]
    chosen: list[int] = candidates[order].tolist()
    return chosen
