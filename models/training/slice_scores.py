"""How good the network is on the held-out slice of train. Pure: no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from tidegate.models.errors import BuildRefused

Logits = NDArray[np.float32]  # [n, classes]
ClassIds = NDArray[np.int64]  # [n]
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class SliceScores:
    """Measurements on the slice."""

    nll: float  # nats, at the best temperature
    accuracy: float
    balanced_accuracy: float  # mean recall of the classes in the slice


def score(logits: Logits, class_ids: ClassIds, balanced: bool) -> SliceScores:
    """Return the scores; `balanced`: every class has the same weight in the NLL.

    The NLL is that at the temperature which minimises it, because the build fits a temperature too:
    a network that is only too sure of itself is not a worse one. Raises BuildRefused if a logit is
    not finite.
    """
    if not np.isfinite(logits).all():
        raise BuildRefused(
            "The network's outputs are not finite: the training diverged. Give a lower rate, "
            "--set optimisation.rate=…, and --fresh to begin again."
        )
    counts = np.bincount(class_ids, minlength=logits.shape[1])
    right = np.bincount(class_ids[logits.argmax(axis=1) == class_ids], minlength=logits.shape[1])
    present = counts > 0
    weights = 1 / counts[class_ids] if balanced else np.ones(len(class_ids))
    return SliceScores(
        nll=_best_nll(logits.astype(np.float64), class_ids, weights / weights.sum()),
        accuracy=float(right.sum() / counts.sum()),
        balanced_accuracy=float((right[present] / counts[present]).mean()),
    )


def _best_nll(
    logits: NDArray[np.float64], class_ids: ClassIds, weights: NDArray[np.float64]
) -> float:
    of_truth = logits[np.arange(len(logits)), class_ids]
    highest = logits.max(axis=1)

    def nll(log_t: float) -> float:
        t = math.exp(log_t)
        total = np.log(np.exp((logits - highest[:, None]) / t).sum(axis=1))
        return float((weights * (total + (highest - of_truth) / t)).sum())

    low, high = map(math.log, _TEMPERATURES)
    return float(minimize_scalar(nll, bounds=(low, high), method="bounded").fun)
