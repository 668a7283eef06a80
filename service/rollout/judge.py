"""Judges a canary by comparing it with the stable version that answers at the same time.

Pure: no clock and no threads. The state is not kept: after a restart the judgement begins anew.
One `alpha` holds for all comparisons together and for any number of looks: each comparison gets
an equal part of it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tidegate.service.rollout.class_mix import SETS, ClassMix
from tidegate.service.rollout.evidence import Bets, Gains, differences, log_mean
from tidegate.service.rollout.groups import GROUP, Bool, Float64, Groups, ranks, weights
from tidegate.service.rollout.rules import JudgeRules

Arm = Literal["stable", "canary"]
Kind = Literal["answered", "late", "error"]
Step = Literal["wait", "promote", "rollback"]

NON_INFERIORITY = 0.05  # probability that a canary that is worse by a margin is promoted
TAIL = 0.05  # p-values up to here are one of the comparisons
P_MARGINS = (0.1, 0.05)  # of the mean p-value, and of the share up to TAIL
_KINDS: tuple[Kind, ...] = ("answered", "late", "error")
_WAITING = 128  # images that are evaluated together
_KEYS = 1 << 16
_SHORTEST_S = 1e-6


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one image was answered."""

    kind: Kind  # late: 504; error: any other 5xx except 503
    received: float  # when it had arrived, in seconds of any clock
    latency_s: float = math.nan  # in queue and engine
    class_id: int = 0
    p_value: float = math.nan
    rejected: bool = False
    duplicate: bool = False  # a near-duplicate of a recent image, of whichever version


@dataclass(frozen=True, slots=True)
class Images:
    """Outcomes as arrays, [n] each, in any order."""

    canary: Bool
    kinds: NDArray[np.int64]  # place in _KINDS
    received: Float64
    latencies_s: Float64
    classes: NDArray[np.int64]
    p_values: Float64
    rejected: Bool
    duplicates: Bool


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason for a step, or for waiting."""

    test: str  # or "images"
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with the canary."""

    step: Step
    why: tuple[Finding, ...]


@dataclass
class _Sums:
    """What a test has seen of each arm, for the report."""

    images: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))
    totals: Float64 = field(default_factory=lambda: np.zeros(2))

    def add(self, canary: Bool, values: Float64) -> None:
        for arm in (0, 1):
            chosen = canary == bool(arm)
            self.images[arm] += int(chosen.sum())
            self.totals[arm] += float(values[chosen].sum())

    def mean(self, arm: int) -> float | None:
        return float(self.totals[arm] / self.images[arm]) if self.images[arm] else None


class _Test:
    """One comparison: evidence that the canary is worse, and evidence that it is not."""

    def __init__(
        self,
        name: str,
        what: str,
        margin: float,
        bound: float,
        *,
        required: bool = False,
        bets: int = 1,
    ) -> None:
        self.name, self.what, self.margin, self.bound = name, what, margin, bound
        self.required = required  # for a promotion
        self.sums = _Sums()
        self.log_evidence = 0.0
        self.alarm = self.shown = False
        self.log_against = 0.0  # that it is worse
        self._worse, self._not_worse = Bets(bets), Bets(1)
        self._compared, self._total = GROUP, 0.0

    @property
    def baseline(self) -> float:
        """Return the mean of the images that were compared so far."""
        return self._total / self._compared

    def learn_baseline(self, values: Float64) -> None:
        """Add values of images that were compared."""
        self._compared += values.size
        self._total += float(values.sum())

    def add(
        self,
        gains: Gains,
        against: Gains | None = None,
        combine: Callable[[Float64], Float64] = log_mean,
    ) -> None:
        """Add groups: gains of bets that the canary is worse, and of one that it is not."""
        if len(gains.values) == 0:
            return
        path = combine(self._worse.add(gains))
        self.log_evidence = float(path[-1])
        self.alarm = self.alarm or float(path.max()) >= math.log(self.bound)
        if against is not None:
            path = self._not_worse.add(against)[:, 0]
            self.log_against = float(path[-1])
            self.shown = self.shown or float(path.max()) >= -math.log(NON_INFERIORITY)

    @property
    def design_effect(self) -> float:
        """Return how many images count as one, at most over the bets."""
        return float(self._worse.design_effects.max())

    def missing(self) -> int | None:
        """Return about how many more images of the canary a promotion needs; None: unknown."""
        growth = float(self._not_worse.growth()[0])
        if growth <= 0:
            return None
        images = (-math.log(NON_INFERIORITY) - self.log_against) / growth
        return max(1, math.ceil(images * int(self.sums.images[1]) / int(self.sums.images.sum())))


class Judge:
    """Compares a canary with the stable version. Not thread-safe. Memory does not grow."""

    def __init__(self, rules: JudgeRules, classes: int, at: float) -> None:
        """`classes` of the model; `at` is the time, for the report."""
        self._rules, self._at = rules, at
        bound = (6 + rules.p_values) / rules.alpha  # e-value at which a comparison alarms
        self.errors = _Test("errors", "share of errors", rules.errors, bound, required=True)
        self.late = _Test("late", "share of late answers", rules.late, bound, required=True)
        self.latency = _Test("latency", "time in queue and engine", 0.0, bound, required=True)
        self.rejections = _Test(
            "rejections", "share of rejected images", rules.rejections, bound, required=True
        )
        self.p_values = _Test("p-values", "mean p-value", P_MARGINS[0], bound, bets=6)
        self.classes = _Test("classes", "class mix", rules.classes, bound, bets=SETS)
        self.feedback = _Test(
            "feedback", "share of disagreement with true classes", rules.feedback, bound
        )
        self._tests = [
            self.errors,
            self.late,
            self.latency,
            self.rejections,
            *([self.p_values] if rules.p_values else []),
            self.classes,
            self.feedback,
        ]
        self._all, self._answered, self._gated = Groups(2), Groups(1), Groups(2)
        self._accepted, self._feedback = Groups(1), Groups(1)
        self._mix = ClassMix(classes, rules.classes)
        self._waiting: list[tuple[bool, int, float, float, int, float, bool, bool]] = []
        self._waiting_feedback: list[tuple[bool, bool]] = []
        self._keys = array("Q", bytes(8 * _KEYS))
        self.images = [0, 0]  # stable, canary
        self.repeated_keys = self.duplicates = 0
        self._step: Verdict | None = None  # a step that was decided stays

    def observe(self, arm: Arm, outcome: Outcome, key: str = "") -> None:
        """Add one image.

        `key` is what the version was chosen by, unless each request has its own: of the images
        with one key only the first counts, for the others go to the same version. Images whose
        version was chosen by the client must not be added.
        """
        if key and self._is_repeated(key):
            self.repeated_keys += 1
            return
        self._waiting.append(
            (
                arm == "canary",
                _KINDS.index(outcome.kind),
                outcome.received,
                outcome.latency_s,
                outcome.class_id,
                outcome.p_value,
                outcome.rejected,
                outcome.duplicate,
            )
        )
        if len(self._waiting) >= _WAITING:
            self._evaluate_waiting()

    def observe_all(self, images: Images) -> None:
        """Add images, each with a version of its own chance."""
        self._evaluate_waiting()
        self._evaluate(images)

    def observe_feedback(self, arm: Arm, *, agrees: bool) -> None:
        """Add the true class of one counted image: whether the version had predicted it."""
        self._waiting_feedback.append((arm == "canary", not agrees))
        if len(self._waiting_feedback) >= _WAITING:
            self._evaluate_waiting()

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
            "tests": [self._row(test) for test in self._tests],
        }

    def _row(self, test: _Test) -> dict[str, Any]:
        row: dict[str, Any] = {
            "test": test.name,
            "images": {"stable": int(test.sums.images[0]), "canary": int(test.sums.images[1])},
            "margin": self._rules.latency if test is self.latency else test.margin,
            "e_value": _exp(test.log_evidence),
            "bound": test.bound,
            "alarm": test.alarm,
            "design_effect": round(test.design_effect, 2),
            "text": self._words(test),
        }
        if test is not self.classes:
            row["stable"], row["canary"] = self._value(test, 0), self._value(test, 1)
        else:
            row["leading"] = self._mix.leading()
        if test.required:
            row["not_worse"] = {
                "e_value": _exp(test.log_against),
                "bound": 1 / NON_INFERIORITY,
                "shown": test.shown,
            }
        return row

    def _value(self, test: _Test, arm: int) -> float | None:
        mean = test.sums.mean(arm)
        return math.exp(mean) if mean is not None and test is self.latency else mean

    def _is_repeated(self, key: str) -> bool:
        """A key is forgotten when another one takes its place in the table."""
        digest = hash(key) & 0xFFFF_FFFF_FFFF_FFFF
        place = digest % _KEYS
        repeated = self._keys[place] == digest
        self._keys[place] = digest
        return repeated

    def _evaluate_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            columns = zip(*waiting, strict=True)
            kinds = (np.bool_, np.int64, np.float64, np.float64, np.int64, np.float64, bool, bool)
            self._evaluate(
                Images(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))
            )
        feedback, self._waiting_feedback = self._waiting_feedback, []
        if feedback:
            canary, wrong = (np.array(column, np.bool_) for column in zip(*feedback, strict=True))
            self.observe_feedback_all(canary, wrong)

    def observe_feedback_all(self, canary: Bool, wrong: Bool) -> None:
        """Add true classes, [n] each."""
        values = wrong.astype(np.float64)
        self.feedback.sums.add(canary, values)
        self._compare([self.feedback], *self._feedback.add(canary, values[:, None]))

    def _evaluate(self, images: Images) -> None:
        order = np.argsort(images.received, kind="stable")
        canary, kinds = images.canary[order], images.kinds[order]
        self.images[1] += int(canary.sum())
        self.images[0] += int((~canary).sum())
        late, error = (kinds == _KINDS.index(kind) for kind in ("late", "error"))
        failed = np.stack([error, late], axis=1).astype(np.float64)
        self.errors.sums.add(canary, failed[:, 0])
        self.late.sums.add(canary, failed[:, 1])
        self._compare([self.errors, self.late], *self._all.add(canary, failed))

        answered = ~(late | error)
        chosen = order[answered]
        canary = canary[answered]
        latency = np.log(np.maximum(images.latencies_s[chosen], _SHORTEST_S))
        self.latency.sums.add(canary, latency)
        groups, values = self._answered.add(canary, latency[:, None])
        places = ranks(groups, values[:, :, 0], math.log(self._rules.latency))
        self._compare([self.latency], groups, places[:, :, None])

        counted = ~images.duplicates[chosen]
        self.duplicates += int((~counted).sum())
        self._evaluate_answers(
            canary[counted],
            images.p_values[chosen][counted],
            images.rejected[chosen][counted],
            images.classes[chosen][counted],
        )

    def _evaluate_answers(
        self, canary: Bool, p_values: Float64, rejected: Bool, classes: NDArray[np.int64]
    ) -> None:
        self.rejections.sums.add(canary, rejected.astype(np.float64))
        self.p_values.sums.add(canary, p_values)
        groups, values = self._gated.add(canary, np.stack([rejected, p_values], axis=1))
        self._compare([self.rejections], groups, values[:, :, :1])
        if self._rules.p_values:
            self.p_values.add(_p_value_gains(groups, values[:, :, 1:]), combine=_both_in_pairs)
        canary, classes = canary[~rejected], classes[~rejected]
        self.classes.sums.add(canary, np.zeros(len(canary)))
        groups, values = self._accepted.add(canary, classes[:, None].astype(np.float64))
        if len(groups):
            self._compare_classes(groups, values[:, :, 0].astype(np.int64))

    def _compare(self, tests: Sequence[_Test], canary: Bool, values: Float64) -> None:
        """Add groups, [groups, GROUP] and [groups, GROUP, tests], with means so far as baseline."""
        weighted = weights(canary)
        for column, test in enumerate(tests):
            value, margin = values[:, :, column : column + 1], np.array([test.margin])
            baseline = np.array([test.baseline])
            test.add(
                differences(weighted, value, baseline, margin, 1),
                differences(weighted, value, baseline, -margin, -1) if test.required else None,
            )
            test.learn_baseline(value)

    def _compare_classes(self, canary: Bool, classes: NDArray[np.int64]) -> None:
        chosen, placed, baseline = self._mix.sets()
        margins = np.full(SETS, self.classes.margin)
        gains = differences(weights(canary), chosen[classes], baseline, margins, 1)
        self.classes.add(replace(gains, worst=gains.worst * placed))
        self._mix.count(canary, classes)

    def _verdict(self) -> Verdict:
        alarms = tuple(
            Finding(test.name, f"The canary is worse: {self._words(test)}")
            for test in self._tests
            if test.alarm
        )
        if alarms:
            return Verdict("rollback" if self._rules.rollback else "wait", alarms)
        missing = tuple(self._missing())
        if missing:
            return Verdict("wait", missing)
        shown = ", ".join(test.name for test in self._tests if test.required)
        text = f"No comparison alarms, and the canary is within the margins of: {shown}."
        return Verdict("promote" if self._rules.promote else "wait", (Finding("images", text),))

    def _missing(self) -> list[Finding]:
        found = []
        lacking = self._rules.least_images - self.images[1]
        if lacking > 0:
            found.append(Finding("images", f"{lacking} more images of the canary are needed."))
        for test in self._tests:
            if test.required and not test.shown:
                more = test.missing()
                text = f"Not yet shown to be within the margin: {self._words(test)} "
                text += (
                    "At this difference it cannot be shown."
                    if more is None
                    else f"About {more} more images of the canary are needed."
                )
                found.append(Finding(test.name, text))
        return found

    def _words(self, test: _Test) -> str:
        stable, canary = (self._value(test, arm) for arm in (0, 1))
        if stable is None or canary is None:
            return f"{test.what}: no images of both versions yet."
        if test is self.classes:
            leading = self._mix.leading()
            shown = ", ".join(
                f"class {c['class_id']} {c['stable']:.2%} → {c['canary']:.2%}" for c in leading
            )
            return f"class mix, margin {test.margin:g} in total variation; most: {shown}."
        if test is self.latency:
            return (
                f"{test.what} {canary * 1e3:.1f} ms against {stable * 1e3:.1f} ms "
                f"(geometric means; margin: a ratio of {self._rules.latency:g})."
            )
        if test is self.p_values:
            return f"{test.what} {canary:.3f} against {stable:.3f} (uniform: 0.5)."
        return f"{test.what} {canary:.2%} against {stable:.2%} (margin {test.margin:.2%})."


def _both_in_pairs(evidence: Float64) -> Float64:
    """Return the evidence for both of two claims, mixed over the pairs of columns."""
    return log_mean(np.minimum(evidence[:, ::2], evidence[:, 1::2]))


def _p_value_gains(canary: Bool, p_values: Float64) -> Gains:
    """Return three pairs of bets: p-values that are lower, higher, more often up to TAIL.

    Under drift neither version has uniform p-values, and a better canary has. So the canary must
    differ from the stable version, and in the same direction from uniform p-values.
    """
    weighted = weights(canary)
    tail = (p_values <= TAIL).astype(np.float64)
    parts = []
    for value, uniform, margin, sign in (
        (p_values, 0.5, P_MARGINS[0], -1),
        (p_values, 0.5, P_MARGINS[0], 1),
        (tail, TAIL, P_MARGINS[1], 1),
    ):
        parts.append(differences(weighted, value, np.array([uniform]), np.array([margin]), sign))
        departs = np.where(canary[:, :, None], sign * (value - uniform), 0.0)
        worst = np.where(canary[:, :, None], (uniform if sign > 0 else 1 - uniform) + margin, 0.0)
        parts.append(Gains(departs, worst, np.array([margin])))
    return Gains(
        np.concatenate([part.values for part in parts], axis=2),
        np.concatenate([part.worst for part in parts], axis=2),
        np.concatenate([part.margins for part in parts]),
    )


def _exp(log: float) -> float:
    """Return a finite e-value."""
    return float(f"{math.exp(min(log, 600.0)):.4g}")
