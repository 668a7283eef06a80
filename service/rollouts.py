"""The canary and the shadow of one model while it serves: who answers, and what is compared."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.slots import BatchResult, Image
from tidegate.service.drift.duplicates import Duplicates
from tidegate.service.errors import DeadlineMissed, EngineFailed
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.rollout.judge import Arm, Judge, Kind, Outcome
from tidegate.service.rollout.routing import chooses_canary, chooses_shadow
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.rollout.shadow import Comparison, ShadowReport
from tidegate.service.served import Served
from tidegate.service.types import Pixels

MAX_SHADOW_WAITING = 8  # images; each waits with its pixels, or with its bytes
_LATE_S = 2.0  # a shadow's image that has waited longer is dropped


@dataclass(frozen=True, slots=True)
class Trial:
    """A version that is tried on a share of the requests."""

    served: Served
    share: float


class Rollout:
    """A stable version with a canary, a shadow or both. Used on the event loop."""

    def __init__(
        self,
        stable: Served,
        canary: Trial | None,
        shadow: Trial | None,
        rules: JudgeRules,
        scheduler: Scheduler,
        on_shadow: Callable[[str], object],
    ) -> None:
        """`on_shadow` is called with the outcome of each image of the shadow, for the metrics."""
        self.stable, self.canary, self.shadow, self.rules = stable, canary, shadow, rules
        classes = stable.bundle.manifest.task.classes
        self.judge = Judge(rules, classes, time.time()) if canary is not None else None
        self.report = ShadowReport() if shadow is not None else None
        self._scheduler = scheduler
        self._on_shadow = on_shadow
        self._duplicates = Duplicates()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, IdleWork]] = {}  # by number: late from, work
        self._canary_salt = _salt(canary)
        self._shadow_salt = _salt(shadow)

    def follow(
        self, stable: Served, canary: Trial | None, shadow: Trial | None, rules: JudgeRules
    ) -> bool:
        """Take new shares, and return True, if the versions and the rules are the same.

        What was observed then still holds.
        """
        now, new = (
            (one.served if one else None, other.served if other else None)
            for one, other in ((self.canary, self.shadow), (canary, shadow))
        )
        if self.stable is not stable or now != new or self.rules != rules:
            return False
        self.canary, self.shadow = canary, shadow
        return True

    def choose(self, key: str) -> Served:
        """Return the version that answers a request with this key."""
        canary = self.canary
        if canary is not None and chooses_canary(key, canary.share, self._canary_salt):
            return canary.served
        return self.stable

    async def classify(
        self, served: Served, upload: Upload, request_id: str, key: str
    ) -> Classification:
        """Classify an image with the version that was chosen by `key`, and observe the answer.

        `key` is "" if it was chosen by the request's id.
        """
        kept: list[Pixels] = []
        shadowed = served is self.stable and self._is_shadowed(request_id)
        try:
            result = await served.pipeline.classify(upload, kept.append if shadowed else None)
        except DeadlineMissed:
            self._observe_failure(served, "late", upload, key)
            raise
        except EngineFailed:
            self._observe_failure(served, "error", upload, key)
            raise
        is_new = self._duplicates.is_new(result.fingerprint, upload.client, upload.received)
        if self.judge is not None:
            outcome = _outcome(upload, result, is_duplicate=not is_new)
            self.judge.observe(self._arm(served), outcome, key)
        if shadowed:
            self._repeat(upload, request_id, kept[0], result, is_duplicate=not is_new)
        return result

    @property
    def compared(self) -> int:
        """Return how many images the shadow has computed again."""
        return 0 if self.report is None else self.report.images

    @property
    def may_promote_shadow(self) -> bool:
        """Return whether the rules make the shadow a canary now."""
        return self.rules.promote_shadow and self.compared >= self.rules.least_images

    def observe_feedback(self, digest: str, *, agrees: bool) -> None:
        """Add the true class of an image that one of the two versions had answered."""
        if self.judge is None or self.canary is None:
            return
        if digest == self.canary.served.bundle.digest:
            self.judge.observe_feedback("canary", agrees=agrees)
        elif digest == self.stable.bundle.digest:
            self.judge.observe_feedback("stable", agrees=agrees)

    def close(self) -> None:
        """Drop the shadow's images that wait."""
        for _, work in self._waiting.values():
            self._scheduler.withdraw(work)
        self._waiting.clear()

    def _arm(self, served: Served) -> Arm:
        return "stable" if served is self.stable else "canary"

    def _observe_failure(self, served: Served, kind: Kind, upload: Upload, key: str) -> None:
        if self.judge is not None:
            self.judge.observe(self._arm(served), Outcome(kind, upload.received), key)

    def _is_shadowed(self, request_id: str) -> bool:
        shadow = self.shadow
        return shadow is not None and chooses_shadow(request_id, shadow.share, self._shadow_salt)

    def _repeat(
        self,
        upload: Upload,
        request_id: str,
        pixels: Pixels,
        result: Classification,
        *,
        is_duplicate: bool,
    ) -> None:
        """Let the shadow compute an image once a slot is idle, unless too many wait."""
        if self.shadow is None:
            return
        now = time.monotonic()
        self._drop_late(now)
        if len(self._waiting) >= MAX_SHADOW_WAITING:
            self._on_shadow("dropped")
            return
        shadow = self.shadow.served
        image: Image = pixels
        if shadow.bundle.manifest.preprocess != self.stable.bundle.manifest.preprocess:
            image = partial(shadow.pipeline.pixels, upload.image)
        number = next(self._numbers)
        work = IdleWork(
            (image,),
            shadow.lane.engine,
            shadow.lane,
            partial(self._compare, number, request_id, result, is_duplicate),
        )
        self._waiting[number] = now + _LATE_S, work
        self._scheduler.when_idle(work)

    def _drop_late(self, now: float) -> None:
        for number, (late_from, work) in list(self._waiting.items()):
            if late_from >= now:
                return
            if self._scheduler.withdraw(work):
                del self._waiting[number]
                self._on_shadow("dropped")

    def _compare(
        self,
        number: int,
        request_id: str,
        result: Classification,
        is_duplicate: bool,
        shadow: BatchResult,
    ) -> None:
        """Compare the shadow's outputs with the answer. On the event loop."""
        self._waiting.pop(number, None)
        outputs = shadow.rows[0]
        if isinstance(outputs, Exception) or self.shadow is None or self.report is None:
            self._on_shadow("failed")
            return
        decided = self.shadow.served.pipeline.decide(outputs)
        top = result.predictions[0]
        same = top.class_id < len(decided.probabilities)
        self.report.observe(
            Comparison(
                request_id,
                top.class_id,
                decided.class_id,
                result.verdict.decision,
                decided.verdict.decision,
                top.probability,
                float(decided.probabilities[top.class_id]) if same else 0.0,
                duplicate=is_duplicate,
            )
        )
        self._on_shadow("compared")


def _outcome(upload: Upload, result: Classification, *, is_duplicate: bool) -> Outcome:
    timing, verdict = result.timing, result.verdict
    return Outcome(
        "answered",
        upload.received,
        timing.queue + timing.engine,
        result.predictions[0].class_id,
        verdict.p_value,
        rejected=verdict.decision == "reject",
        duplicate=is_duplicate,
    )


def _salt(trial: Trial | None) -> str:
    return "" if trial is None else f"{trial.served.name}/{trial.served.version}"
