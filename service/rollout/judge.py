"""Judges a canary by comparing it with the stable version that answers at the same time.

Pure: no clock and no threads. The state is not kept: after a restart the judgement begins anew.
One `alpha` holds for all comparisons together and for any number of looks: each comparison gets
an equal part of it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout import p_values as p
from tidegate.service.rollout.class_mix import SETS, SIGNALS, ClassMix
from tidegate.service.rollout.comparison import NON_INFERIORITY, Comparison
from tidegate.service.rollout.evidence import differences
from tidegate.service.rollout.groups import Bool, Float64, Groups, ranks, weights
from tidegate.service.rollout.outcomes import KINDS, Arm, Images, Outcome, as_arrays
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.rollout.words import describe, row

Step = Literal["wait", "promote", "rollback"]

_WAITING = 128  # images that are evaluated together
_KEYS = 1 << 16
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason for a step, or for waiting."""

    test: str  # a comparison, or "images"
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the canary."""

    step: Step
    why: tuple[Finding, ...]


class Judge:
    """Compares a canary with the stable version. Not thread-safe. Memory does not grow."""

    def __init__(self, rules: JudgeRules, classes: int, at: float) -> None:
        """`classes` of the model; `at` is the time, for the report."""
        self._rules, self._at = rules, at
        bound = (6 + rules.p_values) / rules.alpha  # the e-value at which a comparison alarms
        self.errors = Comparison("errors", rules.errors, bound, required=True)
        self.late = Comparison("late", rules.late, bound, required=True)
        self.latency = Comparison("latency", 0.0, bound, required=True)  # of log times
        self.rejections = Comparison("rejections", rules.rejections, bound, required=True)
        self.p_values = Comparison("p-values", p.MARGINS[0], bound, bets=p.BETS)
        self.classes = Comparison("classes", rules.classes, bound, bets=SETS, signals=SIGNALS)
        self.feedback = Comparison("feedback", rules.feedback, bound)
        self._comparisons = [
            self.errors,
            self.late,
            self.latency,
            self.rejections,
            *([self.p_values] if rules.p_values else []),
            self.classes,
            self.feedback,
        ]
        self._all, self._answered, self._gated = Groups(2), Groups(1), Groups(2)
        self._accepted, self._labelled = Groups(1), Groups(1)
        self._mix = ClassMix(classes, rules.classes)
        self._waiting: list[tuple[Arm, Outcome]] = []
        self._waiting_feedback: list[tuple[bool, bool]] = []
        self._keys = array("Q", bytes(8 * _KEYS))
        self.images = [0, 0]  # stable, canary
        self.repeated_keys = self.duplicates = 0
        self._step: Verdict | None = None  # a step that was decided stays

    def observe(self, arm: Arm, outcome: Outcome, key: str = "") -> bool:
        """Add one image; return whether it counts.

        `key` is what the version was chosen by, unless each image has its own: of the images with
        one key only the first counts, for the others go to the same version. Images whose version
        was chosen by the client must not be added.
        """
        if key and self._is_repeated(key):
            self.repeated_keys += 1
            return False
        self._waiting.append((arm, outcome))
        if len(self._waiting) >= _WAITING:
            self._evaluate_waiting()
        return True

    def observe_all(self, images: Images) -> None:
        """Add images, each with a key of its own."""
        self._evaluate_waiting()
        self._evaluate(images)

    def observe_feedback(self, arm: Arm, *, agrees: bool) -> None:
        """Add the true class of one counted image: whether the version had predicted it."""
        self._waiting_feedback.append((arm == "canary", not agrees))
        if len(self._waiting_feedback) >= _WAITING:
            self._evaluate_waiting()

    def observe_feedback_all(self, canary: Bool, wrong: Bool) -> None:
        """Add true classes, [n] each."""
        values = wrong.astype(np.float64)
        self.feedback.count(canary, values)
        self._compare([self.feedback], *self._labelled.add(canary, values[:, None]))

    def decide(self) -> Verdict:
        """Return what to do now. Once it is not to wait, it stays."""
        self._evaluate_waiting()
        if self._step is None:
            verdict = self._verdict()
            if verdict.step == "wait":
                return verdict
            self._step = verdict
        return self._step

    def report(self, now: float) -> dict[str, Any]:
        """Return the state of all comparisons in numbers and words."""
        self._evaluate_waiting()
        verdict = self._step or self._verdict()
        return {
            "running_s": round(now - self._at, 3),
            "step": verdict.step,
            "why": [{"test": why.test, "text": why.text} for why in verdict.why],
            "alpha": self._rules.alpha,
            "promotion_alpha": NON_INFERIORITY,
            "images": {"stable": self.images[0], "canary": self.images[1]},
            "least_images": self._rules.least_images,
            "not_counted": {"repeated_keys": self.repeated_keys, "duplicates": self.duplicates},
            "tests": [row(one, self._rules, self._mix) for one in self._comparisons],
        }

    def _is_repeated(self, key: str) -> bool:
        """Return whether a key was seen. It is forgotten when another one takes its place."""
        digest = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        place = digest % _KEYS
        repeated = self._keys[place] == digest
        self._keys[place] = digest
        return repeated

    def _evaluate_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._evaluate(as_arrays(waiting))
        feedback, self._waiting_feedback = self._waiting_feedback, []
        if feedback:
            canary, wrong = np.array(feedback, np.bool_).T
            self.observe_feedback_all(canary, wrong)

    def _evaluate(self, images: Images) -> None:
        # A batch of one version ends at once. By arrival its images lie among those of the other.
        order = np.argsort(images.received, kind="stable")
        canary, kinds = images.canary[order], images.kinds[order]
        for arm, chosen in enumerate((~canary, canary)):
            self.images[arm] += int(chosen.sum())
        error, late = (kinds == KINDS.index(kind) for kind in ("error", "late"))
        failed = np.stack([error, late], axis=1).astype(np.float64)
        self.errors.count(canary, failed[:, 0])
        self.late.count(canary, failed[:, 1])
        self._compare([self.errors, self.late], *self._all.add(canary, failed))
        self._evaluate_answers(images, order[~(error | late)])

    def _evaluate_answers(self, images: Images, chosen: NDArray[np.int64]) -> None:
        canary = images.canary[chosen]
        latency = np.log(np.maximum(images.latencies_s[chosen], _SHORTEST_S))
        self.latency.count(canary, latency)
        groups, values = self._answered.add(canary, latency[:, None])
        places = ranks(groups, values[:, :, 0], math.log(self._rules.latency))
        self._compare([self.latency], groups, places[:, :, None])
        counted = chosen[~images.duplicates[chosen]]
        self.duplicates += len(chosen) - len(counted)
        self._evaluate_gate(
            images.canary[counted], images.rejected[counted], images.p_values[counted]
        )
        accepted = counted[~images.rejected[counted]]
        self._evaluate_classes(images.canary[accepted], images.classes[accepted])

    def _evaluate_gate(self, canary: Bool, rejected: Bool, p_values: Float64) -> None:
        self.rejections.count(canary, rejected.astype(np.float64))
        self.p_values.count(canary, p_values)
        groups, values = self._gated.add(canary, np.stack([rejected, p_values], axis=1))
        self._compare([self.rejections], groups, values[:, :, :1])
        if self._rules.p_values:
            self.p_values.add(p.p_value_gains(groups, values[:, :, 1:]), combine=p.both_in_pairs)

    def _evaluate_classes(self, canary: Bool, classes: NDArray[np.int64]) -> None:
        self.classes.count(canary, np.zeros(len(canary)))
        groups, values = self._accepted.add(canary, classes[:, None].astype(np.float64))
        if len(groups) == 0:
            return
        ids = values[:, :, 0].astype(np.int64)
        sets, placed, baseline = self._mix.sets(self.classes.design_effect)
        margins = np.full(SETS, self.classes.margin)
        weighted = weights(groups)
        gains = differences(weighted, sets[ids], baseline, margins, 1)
        self.classes.add(
            replace(gains, worst=gains.worst * placed), signals=self._mix.signals(weighted, ids)
        )
        self._mix.count(groups, ids)

    def _compare(self, comparisons: Sequence[Comparison], canary: Bool, values: Float64) -> None:
        """Add groups, [groups, GROUP] and, from 0 to 1, [groups, GROUP, comparisons]."""
        weighted = weights(canary)
        for column, one in enumerate(comparisons):
            value = values[:, :, column : column + 1]
            baseline, margin = np.array([one.baseline]), np.array([one.margin])
            one.add(
                differences(weighted, value, baseline, margin, 1),
                differences(weighted, value, baseline, -margin, -1) if one.required else None,
            )
            one.learn_baseline(value)

    def _verdict(self) -> Verdict:
        alarms = tuple(
            Finding(one.name, f"The canary is worse: {self._words(one)}")
            for one in self._comparisons
            if one.alarm
        )
        if alarms:
            return Verdict("rollback" if self._rules.rollback else "wait", alarms)
        missing = tuple(self._missing())
        if missing:
            return Verdict("wait", missing)
        shown = ", ".join(one.name for one in self._comparisons if one.required)
        text = f"No comparison alarms, and the canary is within the margins of: {shown}."
        return Verdict("promote" if self._rules.promote else "wait", (Finding("images", text),))

    def _missing(self) -> list[Finding]:
        found = []
        lacking = self._rules.least_images - self.images[1]
        if lacking > 0:
            found.append(Finding("images", f"{lacking} more images of the canary are needed."))
        for one in self._comparisons:
            if one.required and not one.shown:
                text = f"Not yet shown to be within the margin: {self._words(one)}"
                found.append(Finding(one.name, text + _how_far(one)))
        return found

    def _words(self, one: Comparison) -> str:
        return describe(one, self._rules, self._mix)


def _how_far(one: Comparison) -> str:
    """Return a sentence about the images that a comparison still needs, if it has any."""
    if not all(one.images):
        return ""
    more = one.missing()
    if more is None:
        return " The difference is too close to the margin to show it."
    return f" About {more} more images of the canary are needed."
