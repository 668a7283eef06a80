"""The report of a comparison, in numbers and words."""

from __future__ import annotations

import math
from typing import Any

from tidegate.service.rollout.class_mix import ClassMix
from tidegate.service.rollout.comparison import NON_INFERIORITY, Comparison
from tidegate.service.rollout.rules import JudgeRules

_SHARES = {
    "errors": "share of errors",
    "late": "share of late answers",
    "rejections": "share of rejected images",
    "feedback": "share of disagreement with true classes",
}
_LARGEST_LOG = 600.0  # JSON has no infinity


def row(one: Comparison, rules: JudgeRules, mix: ClassMix) -> dict[str, Any]:
    """Return a comparison for the report."""
    found: dict[str, Any] = {
        "test": one.name,
        "images": {"stable": one.images[0], "canary": one.images[1]},
        "margin": rules.latency if one.name == "latency" else one.margin,
        "e_value": e_value(one.log_evidence),
        "bound": one.bound,
        "alarm": one.alarm,
        "design_effect": round(one.design_effect, 2),
        "text": describe(one, rules, mix),
    }
    if one.name == "classes":
        found["leading"] = mix.leading()
    else:
        found["stable"], found["canary"] = _value(one, 0), _value(one, 1)
    if one.required:
        found["not_worse"] = {
            "e_value": e_value(one.log_not_worse),
            "bound": 1 / NON_INFERIORITY,
            "shown": one.shown,
        }
    return found


def describe(one: Comparison, rules: JudgeRules, mix: ClassMix) -> str:
    """Return a sentence with the values of both versions."""
    stable, canary = _value(one, 0), _value(one, 1)
    if stable is None or canary is None:
        return f"{one.name}: no images of both versions yet."
    if one.name == "latency":
        return (
            f"time in queue and engine {canary * 1e3:.1f} ms against {stable * 1e3:.1f} ms "
            f"(geometric means; margin: a ratio of {rules.latency:g})."
        )
    if one.name == "p-values":
        return f"mean p-value {canary:.3f} against {stable:.3f} (uniform: 0.5)."
    if one.name == "classes":
        leading = ", ".join(
            f"class {c['class_id']} {c['canary']:.2%} against {c['stable']:.2%}"
            for c in mix.leading()
        )
        return f"class mix (margin {one.margin:g} in total variation); most: {leading or 'none'}."
    return f"{_SHARES[one.name]} {canary:.2%} against {stable:.2%} (margin {one.margin:.2%})."


def _value(one: Comparison, arm: int) -> float | None:
    mean = one.mean(arm)
    return math.exp(mean) if mean is not None and one.name == "latency" else mean


def e_value(log: float) -> float:
    """Return an e-value for the report, from its logarithm."""
    return float(f"{math.exp(min(log, _LARGEST_LOG)):.4g}")
