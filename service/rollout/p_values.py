"""Bets that the p-values of a canary are less uniform than those of the stable version.

Under drift neither version has uniform p-values, and a better canary has. So the canary must differ
from the stable version and, in the same direction, from uniform p-values: there are pairs of bets,
and the evidence of a pair is the smaller one.
"""

from __future__ import annotations

import numpy as np

from tidegate.service.rollout.evidence import Gains, differences, log_mean
from tidegate.service.rollout.groups import Bool, Float64, weights

TAIL = 0.05  # p-values up to here are one of the comparisons
MARGINS = (0.1, 0.05)  # of the mean p-value, and of the share up to TAIL
BETS = 6


def p_value_gains(canary: Bool, p_values: Float64) -> Gains:
    """Return three pairs of bets: p-values that are lower, higher, more often up to TAIL.

    `canary` are [groups, GROUP] and `p_values` [groups, GROUP, 1].
    """
    weighted = weights(canary)
    tail = (p_values <= TAIL).astype(np.float64)
    parts = []
    for values, uniform, margin, sign in (
        (p_values, 0.5, MARGINS[0], -1),
        (p_values, 0.5, MARGINS[0], 1),
        (tail, TAIL, MARGINS[1], 1),
    ):
        parts.append(differences(weighted, values, np.array([uniform]), np.array([margin]), sign))
        departs = np.where(canary[:, :, None], sign * (values - uniform), 0.0)
        worst = np.where(canary[:, :, None], (uniform if sign > 0 else 1 - uniform) + margin, 0.0)
        parts.append(Gains(departs, worst, np.array([margin])))
    return Gains(
        np.concatenate([part.values for part in parts], axis=2),
        np.concatenate([part.worst for part in parts], axis=2),
        np.concatenate([part.margins for part in parts]),
    )


def both_in_pairs(evidence: Float64) -> Float64:
    """Return the log evidence for both claims of a pair, mixed over the pairs."""
    return log_mean(np.minimum(evidence[:, ::2], evidence[:, 1::2]))
