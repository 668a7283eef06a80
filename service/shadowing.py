"""Let a shadow compute again what the stable version has answered, when slots are idle."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tidegate.service.batching.idle_work import IdleWork
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.batching.slots import BatchResult, Image
from tidegate.service.deciding import Decided
from tidegate.service.observing import Observation
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.rollout.shadow import AnswerPair, ShadowReport
from tidegate.service.rollout.shadow_judge import ShadowJudge
from tidegate.service.served import Served
from tidegate.service.types import Pixels

MAX_SHADOW_WAITING = 8  # images; each waits with its pixels and bytes
MAX_SHADOW_IMAGE_BYTES = 4 << 20  # of an upload; larger ones are not computed again
_LATE_S = 2.0  # an image that has waited longer is dropped


@dataclass(frozen=True, slots=True)
class Answered:
    """An image that the stable version has answered."""

    image: bytes
    pixels: Pixels  # as the stable version's preprocessing made them
    seen: Observation
    is_duplicate: bool  # a near-duplicate of a recent image


class Shadowing:
    """The images that wait for one shadow, and the report. Used on the event loop."""

    def __init__(
        self,
        stable: Served,
        shadow: Served,
        rules: JudgeRules,
        scheduler: Scheduler,
        on_outcome: Callable[[str], object],
        on_difference: Callable[[str, bytes], object],
    ) -> None:
        """`on_outcome` is called with compared, dropped or failed for each image, for the metrics.

        `on_difference` gets the image's id and bytes if the classes or the decisions differ.
        """
        self.judge = ShadowJudge(rules)
        self._report = ShadowReport()
        self._shadow = shadow
        specs = [version.bundle.manifest.preprocess for version in (stable, shadow)]
        self._same_pixels = specs[0] == specs[1]
        self._scheduler = scheduler
        self._on_outcome = on_outcome
        self._on_difference = on_difference
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[float, IdleWork]] = {}  # by number: late from, work
        self._closed = False

    def repeat(self, answered: Answered) -> None:
        """Compute an image again once a slot is idle, unless too many wait."""
        if self._closed:  # while the image was computed
            return
        now = time.monotonic()
        self._drop_late(now)
        too_large = len(answered.image) > MAX_SHADOW_IMAGE_BYTES
        if too_large or len(self._waiting) >= MAX_SHADOW_WAITING:
            self._on_outcome("dropped")
            return
        image: Image = answered.pixels
        if not self._same_pixels:
            image = partial(self._shadow.pipeline.pixels, answered.image)
        number, lane = next(self._numbers), self._shadow.lane
        work = IdleWork((image,), lane.engine, lane, partial(self._compare, number, answered))
        self._waiting[number] = now + _LATE_S, work
        self._scheduler.when_idle(work)

    def drop(self) -> None:
        """Count an image that is not computed again."""
        self._on_outcome("dropped")

    def report(self) -> dict[str, Any]:
        """Return the comparison, and what a promotion still needs."""
        return {**self._report.report(), "promotion": self.judge.report()}

    def close(self) -> None:
        """Drop the images that wait, and take no more."""
        self._closed = True
        for _, work in self._waiting.values():
            self._scheduler.withdraw(work)
        self._waiting.clear()

    def _drop_late(self, now: float) -> None:
        for number, (late_from, work) in list(self._waiting.items()):
            if late_from >= now:
                return
            if self._scheduler.withdraw(work):
                del self._waiting[number]
                self._on_outcome("dropped")

    def _compare(self, number: int, answered: Answered, computed: BatchResult) -> None:
        self._waiting.pop(number, None)
        outputs = computed.rows[0]
        if isinstance(outputs, Exception):
            self._on_outcome("failed")
            self.judge.observe_failure()
            return
        pair = _compared(answered, self._shadow.pipeline.decide(outputs))
        if not pair.is_same:
            self._on_difference(answered.seen.tag.image_id, answered.image)
        self._report.observe(pair)
        self.judge.observe(pair)
        self._on_outcome("compared")


def _compared(answered: Answered, decided: Decided) -> AnswerPair:
    seen = answered.seen
    known = seen.class_id < len(decided.probabilities)  # a shadow may have fewer classes
    return AnswerPair(
        seen.tag.image_id,
        seen.class_id,
        decided.class_id,
        seen.decision,
        decided.verdict.decision,
        seen.probability,
        float(decided.probabilities[seen.class_id]) if known else 0.0,
        duplicate=answered.is_duplicate,
        stable_p_value=seen.p_value,
        shadow_p_value=decided.verdict.p_value,
    )
