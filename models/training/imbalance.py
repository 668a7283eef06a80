"""Weights against unequal numbers of images per class. Pure: no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tidegate.models.training.config import Imbalance, Sampling

Float64 = NDArray[np.float64]

NAMED_FROM = 10.0  # the ratio from which a training without a remedy says so
ANOMALY_FROM = 100.0


def ratio(counts: Sequence[int]) -> float:
    """Return how many times more images the largest class has than the smallest."""
    return max(counts) / min(counts)


def class_weights(counts: Sequence[int], chosen: Imbalance) -> Float64 | None:
    """Return the weight of each class in the loss, mean 1 over the images; None: all equal.

    "weighted": 1 / n. "class-balanced": (1 − β) / (1 − βⁿ), the inverse of the effective number of
    images (Cui et al. 2019, eq. 2).
    """
    n = np.asarray(counts, np.float64)
    if chosen.loss == "weighted":
        weights = 1 / n
    elif chosen.loss == "class-balanced":
        weights = (1 - chosen.beta) / (1 - chosen.beta**n)
    else:
        return None
    return np.asarray(weights * n.sum() / (weights * n).sum())


def log_priors(counts: Sequence[int], chosen: Imbalance) -> Float64 | None:
    """Return τ·log π per class, added to the logits in training; None: nothing.

    π is the share of a class in the images that are drawn. Logit adjustment (Menon et al. 2021, eq.
    10): the network learns the logits that are right if all classes are equally frequent.
    """
    if chosen.loss != "logit-adjusted":
        return None
    return np.asarray(chosen.tau * np.log(sampling_weights(counts, chosen.sampling)))


def sampling_weights(counts: Sequence[int], sampling: Sampling) -> Float64:
    """Return the probability that a drawn image is of a class, [classes], sum 1."""
    power = {"natural": 1.0, "square-root": 0.5, "balanced": 0.0}[sampling]
    weights = np.asarray(counts, np.float64) ** power
    return np.asarray(weights / weights.sum())


def draw(
    class_ids: NDArray[np.int64], counts: Sequence[int], sampling: Sampling, seed: Sequence[int]
) -> NDArray[np.int64]:
    """Return the order in which an epoch visits the images, as many as there are.

    Natural sampling visits each once; the others draw images with replacement.
    """
    rng = np.random.default_rng(seed)
    if sampling == "natural":
        return rng.permutation(len(class_ids))
    per_image = sampling_weights(counts, sampling)[class_ids] / np.asarray(counts)[class_ids]
    return rng.choice(len(class_ids), len(class_ids), p=per_image / per_image.sum())


def advice(counts: Sequence[int], chosen: Imbalance) -> tuple[str, ...]:
    """Return sentences on classes of unequal size, for the console and the card."""
    found = ratio(counts)
    if found < NAMED_FROM:
        return ()
    lines = [f"The largest class has {found:.0f} times as many images as the smallest."]
    if chosen.loss in ("plain", "focal") and chosen.sampling == "natural" and not chosen.two_stage:
        lines.append(
            "Nothing was done about it: rare classes are recognised less often. Try "
            "--set imbalance.loss=logit-adjusted, or --set imbalance.two_stage=true."
        )
    if chosen.loss in ("weighted", "class-balanced") and chosen.sampling != "natural":
        lines.append(
            f"imbalance.loss={chosen.loss} and imbalance.sampling={chosen.sampling} both favour "
            "rare classes, and their effects multiply: one of them is enough."
        )
    if found > ANOMALY_FROM:
        lines.append(
            "Beyond 100 to 1 a classifier learns little about the rarest classes. If they are "
            "faults or accidents, train on the frequent classes alone, and let the gate find the "
            "rest as anomalies."
        )
    return tuple(lines)
