"""Judges whether a shadow may become the canary, by both versions' answers to the same images.

The evidence is valid at any time (see `evidence`). It needs no assignment by chance, because every
image is answered by both versions. Pure; memory does not grow.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout import p_values as p
from tidegate.service.rollout.comparison import NON_INFERIORITY
from tidegate.service.rollout.evidence import Bets, Gains
from tidegate.service.rollout.groups import GROUP, Float64
from tidegate.service.rollout.judge import Finding, Verdict
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.rollout.shadow import AnswerPair
from tidegate.service.rollout.words import e_value

_SHOWN = math.log(1 / NON_INFERIORITY)
_TEXTS = {
    "failures": "share of images that the shadow could not compute",
    "disagreements": "share of accepted images with another class",
    "rejections": "share of rejected images, shadow minus stable",
}


class ShadowJudge:
    """Tests the claims that a promotion of the shadow needs. Not thread-safe."""

    def __init__(self, rules: JudgeRules) -> None:
        self._rules = rules
        self._claims = [
            failures := Claim("failures", rules.errors),
            disagreements := Claim("disagreements", rules.disagreements),
            rejections := Claim("rejections", rules.rejections),
        ]
        self._failures, self._disagreements, self._rejections = failures, disagreements, rejections
        self._p_values = _PValues(1 / rules.alpha) if rules.p_values else None
        self.images = 0

    def observe(self, pair: AnswerPair) -> None:
        """Add an image that both have answered; near-duplicates do not count."""
        if pair.duplicate:
            return
        self.images += 1
        self._failures.add(0.0)
        rejected = pair.stable_decision == "reject", pair.shadow_decision == "reject"
        self._rejections.add(float(rejected[1]) - float(rejected[0]))
        if not any(rejected):
            self._disagreements.add(float(pair.stable_class != pair.shadow_class))
        if self._p_values is not None:
            self._p_values.add(pair.stable_p_value, pair.shadow_p_value)

    def observe_failure(self) -> None:
        """Add an image that the shadow could not compute."""
        self._failures.add(1.0)

    def decide(self) -> Verdict:
        """Return whether the shadow may be promoted, or what is missing."""
        if self._p_values is not None and self._p_values.alarm:
            return Verdict("wait", (Finding("p-values", self._p_values.text),))
        missing = []
        if (lacking := self._rules.least_images - self.images) > 0:
            missing.append(Finding("images", f"{lacking} more images must be compared."))
        missing += [
            Finding(claim.name, f"Not yet shown to be within the margin: {claim.text}")
            for claim in self._claims
            if not claim.shown
        ]
        if missing:
            return Verdict("wait", tuple(missing))
        shown = "; ".join(claim.text.removesuffix(".") for claim in self._claims)
        return Verdict(
            "promote" if self._rules.promote_shadow else "wait",
            (Finding("images", f"{self.images} images compared; within the margins: {shown}."),),
        )

    def report(self) -> dict[str, Any]:
        """Return the state of the evidence in numbers and words."""
        verdict = self.decide()
        return {
            "step": verdict.step,
            "why": [{"test": why.test, "text": why.text} for why in verdict.why],
            "least_images": self._rules.least_images,
            "promotion_alpha": NON_INFERIORITY,
            "tests": [claim.row() for claim in self._claims],
        }


class Claim:
    """Evidence that the mean of values from −1 to 1 is below a margin."""

    def __init__(self, name: str, margin: float) -> None:
        """With a margin of 1 there is nothing to show."""
        self.name, self._margin = name, margin
        self.shown = margin >= 1
        self._bets, self._groups = Bets(1), _Groups(1)
        self._images, self._total, self._log_evidence = 0, 0.0, 0.0

    def add(self, value: float) -> None:
        """Add one image."""
        self._images += 1
        self._total += value
        group = self._groups.add([value])
        if group is None or self._margin >= 1:
            return
        worst = np.full_like(group, 1 - self._margin)
        gains = Gains(-group, worst, np.array([-self._margin]))
        self._log_evidence = float(self._bets.add(gains)[-1, 0])
        self.shown = self.shown or self._log_evidence >= _SHOWN

    @property
    def text(self) -> str:
        """Return a sentence with the share and its margin."""
        found = f"{self._total / self._images:.2%}" if self._images else "unknown"
        return f"{_TEXTS[self.name]} {found} (margin {self._margin:.2%})."

    def row(self) -> dict[str, Any]:
        """Return the claim for the report."""
        return {
            "test": self.name,
            "images": self._images,
            "share": self._total / self._images if self._images else None,
            "margin": self._margin,
            "e_value": e_value(self._log_evidence),
            "bound": 1 / NON_INFERIORITY,
            "shown": self.shown,
        }


class _PValues:
    """Evidence that the shadow's p-values are less uniform, in the pairs of `p_values`."""

    def __init__(self, bound: float) -> None:
        self.alarm = False
        self._bound = bound
        self._bets, self._groups = Bets(p.BETS), _Groups(2)
        self._images, self._totals = 0, np.zeros(2)

    def add(self, stable: float, shadow: float) -> None:
        self._images += 1
        self._totals += stable, shadow
        group = self._groups.add([stable, shadow])
        if group is not None:
            path = p.both_in_pairs(self._bets.add(_p_value_gains(group)))
            self.alarm = self.alarm or float(path[-1]) >= math.log(self._bound)

    @property
    def text(self) -> str:
        stable, shadow = self._totals / max(self._images, 1)
        return (
            f"The p-values are less uniform: their mean is {shadow:.3f} against {stable:.3f} of "
            "the stable version (uniform: 0.5)."
        )


def _p_value_gains(group: Float64) -> Gains:
    """Return what the pairs of bets win, from p-values [groups, GROUP, 2] of stable and shadow."""
    stable, shadow = group[:, :, 0], group[:, :, 1]
    tails = [(side <= p.TAIL).astype(np.float64) for side in (stable, shadow)]
    mean, tail = p.MARGINS
    columns = [  # a gain, the largest loss without the margin, the margin
        (stable - shadow, 1.0, mean),
        (0.5 - shadow, 0.5, mean),
        (shadow - stable, 1.0, mean),
        (shadow - 0.5, 0.5, mean),
        (tails[1] - tails[0], 1.0, tail),
        (tails[1] - p.TAIL, p.TAIL, tail),
    ]
    values = np.stack([gain for gain, _, _ in columns], axis=2)
    margins = np.array([margin for _, _, margin in columns])
    worst = np.array([loss for _, loss, _ in columns]) + margins
    return Gains(values, np.broadcast_to(worst, values.shape), margins)


class _Groups:
    """Collects images until they are GROUP."""

    def __init__(self, columns: int) -> None:
        self._waiting: NDArray[np.float64] = np.zeros((GROUP, columns))
        self._images = 0

    def add(self, row: list[float]) -> Float64 | None:
        """Return a complete group, [1, GROUP, columns]; None until there is one."""
        self._waiting[self._images] = row
        self._images = (self._images + 1) % GROUP
        return None if self._images else self._waiting[None].copy()
