"""Fit a linear layer to features: logistic regression, chosen by cross-validation."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from tidegate.models.errors import BuildRefused
from tidegate.models.progress import follow

Float64 = NDArray[np.float64]
Balance = Literal["natural", "balanced", "logit-adjusted"]
BALANCES: tuple[Balance, ...] = ("natural", "balanced", "logit-adjusted")
IMBALANCED = 10  # images of the largest class for one of the smallest, from which it is handled
# Penalties per image: half the squared length of the weights of standardised features times this
# is added to the mean loss.
_DECAYS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_FOLDS = 3
_ITERATIONS = 300
_TOLERANCE = 1e-4  # of the gradient


@dataclass(frozen=True, slots=True)
class Validated:
    """What cross-validation inside train says of one way to fit the layer."""

    decay: float
    nll: float  # nats per image; of "balanced", classes count equally
    accuracy: float
    balanced_accuracy: float  # mean recall of the classes


@dataclass(frozen=True, slots=True)
class LinearHead:
    """logits = features · weightsᵀ + bias."""

    weights: Float64  # [classes, D]
    bias: Float64  # [classes]
    balance: Balance
    validated: Mapping[Balance, Validated]

    def logits(self, features: NDArray[np.floating]) -> Float64:
        """Return the logits, [n, classes]."""
        return np.asarray(features, np.float64) @ self.weights.T + self.bias


def check_installed() -> None:
    """Raise ModuleNotFoundError without scikit-learn."""
    importlib.import_module("sklearn")


def fit_head(
    features: NDArray[np.floating], class_ids: NDArray[np.int64], classes: int, seed: int = 0
) -> LinearHead:
    """Return a linear layer for `features` [n, D] and their `class_ids` [n].

    How strongly its weights are held back is chosen by cross-validation. If the largest class has
    ten times the images of the smallest or more, so is the way to handle that, by the balanced
    accuracy: "natural"; "balanced", where each class counts equally in the loss; "logit-adjusted",
    the natural layer with the logarithms of the classes' shares subtracted from its bias, which is
    what training with adjusted logits gives (Menon et al. 2021). Raises BuildRefused if a class has
    fewer than two images.
    """
    counts = np.bincount(class_ids, minlength=classes)
    if counts.min() < 2:
        raise BuildRefused(
            f"Class {int(counts.argmin())} has {counts.min()} training images: a linear layer "
            "needs at least 2 of each class."
        )
    imbalanced = counts.max() >= IMBALANCED * counts.min()
    images = np.asarray(features, np.float32)
    found = _cross_validated(images, class_ids, seed, imbalanced)
    balance = max(found, key=lambda name: found[name].balanced_accuracy)
    weights, bias = fit_layer(images, class_ids, found[balance].decay, balance)
    return LinearHead(weights, bias, balance, found)


def fit_layer(
    features: NDArray[np.float32], class_ids: NDArray[np.int64], decay: float, balance: Balance
) -> tuple[Float64, Float64]:
    """Return the weights [classes, D] and bias [classes] of one way to fit the layer."""
    layers = _Layers(features, class_ids, weighted=balance == "balanced")
    weights, bias = layers.fit(decay)
    return weights, bias - _log_shares(class_ids) if balance == "logit-adjusted" else bias


def _cross_validated(
    features: NDArray[np.float32], class_ids: NDArray[np.int64], seed: int, imbalanced: bool
) -> dict[Balance, Validated]:
    """Return the best penalty of every way to fit the layer, with its results."""
    found: dict[Balance, Validated] = {}
    found["natural"], logits, shares = _best(features, class_ids, seed, weighted=False)
    if imbalanced:
        found["balanced"], *_ = _best(features, class_ids, seed, weighted=True)
        decay = found["natural"].decay
        found["logit-adjusted"] = _validated(decay, logits - shares, class_ids, weighted=False)
    return found


def _best(
    features: NDArray[np.float32], class_ids: NDArray[np.int64], seed: int, *, weighted: bool
) -> tuple[Validated, Float64, Float64]:
    """Return the best penalty, and for it the held-out logits and log shares, [n, classes].

    Penalties are tried from strong to weak until the loss rises: weak ones take longest to fit.
    """
    count = min(_FOLDS, int(np.bincount(class_ids).min()))
    folds_of = _library("model_selection").StratifiedKFold(count, shuffle=True, random_state=seed)
    folds = list(folds_of.split(features, class_ids))
    layers = [_Layers(features[train], class_ids[train], weighted=weighted) for train, _ in folds]
    best: Validated | None = None
    kept = shares = np.empty(0)
    for decay in follow(_DECAYS, "Cross-validating the linear layer"):
        logits, shares_now = (np.zeros((len(features), class_ids.max() + 1)) for _ in range(2))
        for (train, held), layer in zip(folds, layers, strict=True):
            weights, bias = layer.fit(decay)
            logits[held] = features[held] @ weights.T + bias
            shares_now[held] = _log_shares(class_ids[train])
        one = _validated(decay, logits, class_ids, weighted=weighted)
        if best is not None and one.nll >= best.nll:
            break
        best, kept, shares = one, logits, shares_now
    if best is None:  # pragma: no cover - there are penalties
        raise AssertionError("no penalty was tried")
    return best, kept, shares


def _validated(
    decay: float, logits: Float64, class_ids: NDArray[np.int64], *, weighted: bool
) -> Validated:
    losses = -log_softmax(logits, axis=1)[np.arange(len(class_ids)), class_ids]
    right = logits.argmax(axis=1) == class_ids
    return Validated(
        decay,
        float(_by_class(losses, class_ids).mean() if weighted else losses.mean()),
        float(right.mean()),
        float(_by_class(right.astype(np.float64), class_ids).mean()),
    )


def _by_class(values: Float64, class_ids: NDArray[np.int64]) -> Float64:
    return np.bincount(class_ids, values) / np.bincount(class_ids)


class _Layers:
    """Fits the layer to some images with one penalty after the other, each from the last result."""

    def __init__(
        self, features: NDArray[np.float32], class_ids: NDArray[np.int64], *, weighted: bool
    ) -> None:
        self._mean = features.mean(axis=0, dtype=np.float64)
        self._std = features.std(axis=0, dtype=np.float64) + 1e-6
        self._z = ((features - self._mean) / self._std).astype(np.float32)
        self._class_ids = class_ids
        self._model = _library("linear_model").LogisticRegression(
            class_weight="balanced" if weighted else None,
            warm_start=True,
            max_iter=_ITERATIONS,
            tol=_TOLERANCE,
        )

    def fit(self, decay: float) -> tuple[Float64, Float64]:
        """Return weights [classes, D] and bias [classes] for the features as they are."""
        self._model.set_params(C=1 / (decay * len(self._z)))
        # Threads that wait for each other on busy cores took 30 times as long as one.
        limits = importlib.import_module("threadpoolctl").threadpool_limits
        with limits(1), warnings.catch_warnings():
            # With a weak penalty it takes long, and the cross-validation judges what it gives.
            warnings.simplefilter("ignore", _library("exceptions").ConvergenceWarning)
            self._model.fit(self._z, self._class_ids)
        weights = np.float64(self._model.coef_) / self._std
        bias = np.float64(self._model.intercept_) - weights @ self._mean
        if len(bias) == 1:  # two classes: one logit, half of it for each
            weights, bias = (np.concatenate([-half, half]) for half in (weights / 2, bias / 2))
        return weights, bias


def _library(part: str) -> Any:
    """Return a module of scikit-learn, imported late: that takes seconds."""
    return importlib.import_module(f"sklearn.{part}")


def _log_shares(class_ids: NDArray[np.int64]) -> Float64:
    return np.log(np.bincount(class_ids) / len(class_ids))
