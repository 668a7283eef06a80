"""The loss of a batch: cross-entropy with soft targets, and its remedies against imbalance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.config import Imbalance
from tidegate.models.training.imbalance import class_weights, log_priors

# Least 1 − p. At 0, where p rounds to 1, a root has no gradient; the next one in float32 is 6e-8.
_LEAST = 1e-8


class Loss:
    """Maps logits [B, C] and targets [B, C] (rows sum to 1) to the mean loss of the batch.

    Plain: −Σ t·log p. Weighted and class-balanced: each term × its class's weight. Focal: each term
    × (1 − p)^γ (Lin et al. 2017, eq. 4). Logit-adjusted: p is the softmax of logits + τ·log π.
    """

    def __init__(
        self, counts: Sequence[int], chosen: Imbalance, smoothing: float, device: Any
    ) -> None:
        torch = require("torch")

        def tensor(values: Any) -> Any:
            if values is None:
                return None
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self._weights = tensor(class_weights(counts, chosen))
        self._priors = tensor(log_priors(counts, chosen))
        self._gamma = chosen.gamma if chosen.loss == "focal" else 0.0
        self._smoothing = smoothing
        self._log_softmax = torch.nn.functional.log_softmax

    def __call__(self, logits: Any, targets: Any) -> Any:
        """Return the mean loss, a tensor without shape."""
        logits = logits.float()  # mixed precision ends before the exponentials
        if self._smoothing:
            targets = targets * (1 - self._smoothing) + self._smoothing / targets.shape[1]
        if self._priors is not None:
            logits = logits + self._priors
        log_p = self._log_softmax(logits, dim=1)
        terms = targets * log_p
        if self._gamma:
            terms = terms * (1 - log_p.exp()).clamp_min(_LEAST) ** self._gamma
        if self._weights is not None:
            terms = terms * self._weights
        return -terms.sum(dim=1).mean()
