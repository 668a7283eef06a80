"""The canary and the shadow of one model while it serves: who answers, and what is compared."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.drift.duplicates import Duplicates
from tidegate.service.errors import DeadlineMissed, EngineFailed, TidegateError
from tidegate.service.observing import Observation, Tag
from tidegate.service.pipeline import Classification, Upload
from tidegate.service.review.recent_answers import MAX_ANSWERS
from tidegate.service.rollout.judge import Judge
from tidegate.service.rollout.outcomes import Arm, Kind, Outcome
from tidegate.service.rollout.routing import chooses_canary, chooses_shadow
from tidegate.service.rollout.rules import JudgeRules
from tidegate.service.served import Served, Version
from tidegate.service.shadowing import Answered, Shadowing
from tidegate.service.types import Pixels

_FAILURES: dict[type[TidegateError], Kind] = {DeadlineMissed: "late", EngineFailed: "error"}


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
        on_difference: Callable[[str, bytes], object],
    ) -> None:
        """`on_shadow` and `on_difference` are those of `Shadowing`."""
        self.stable, self.canary, self.shadow, self.rules = stable, canary, shadow, rules
        self.judge: Judge | None = None
        self.shadowing: Shadowing | None = None
        if canary is not None:
            self.judge = Judge(rules, stable.bundle.manifest.task.classes, time.monotonic())
        if shadow is not None:
            self.shadowing = Shadowing(
                stable, shadow.served, rules, scheduler, on_shadow, on_difference
            )
        self._duplicates = Duplicates()
        # Ids of images that the judge has counted: other answers were not assigned by chance.
        self._counted: OrderedDict[str, None] = OrderedDict()
        self._canary_salt, self._shadow_salt = (
            "" if one is None else salt_of(one.served) for one in (canary, shadow)
        )

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

        `key` is "" if no other image was chosen by the same.
        """
        kept: list[Pixels] = []
        # A shadow may preprocess in another way, which it cannot do with pixels.
        shadowing = None if upload.pixels is not None else self._shadowing_of(served, request_id)
        try:
            keep = None if shadowing is None else kept.append
            result = await served.pipeline.classify(upload, Tag(request_id, key), keep)
        except TidegateError as error:
            if (kind := failure_of(error)) is not None:
                self.observe_failure(served, kind, upload.received, key)
            raise
        except Exception:  # a bug, answered 500
            self.observe_failure(served, "error", upload.received, key)
            raise
        pixels = None if shadowing is None else kept[0]
        self.observe(served, result.observation, upload.image, pixels)
        return result

    def observe(
        self, served: Served, seen: Observation, image: bytes = b"", pixels: Pixels | None = None
    ) -> None:
        """Observe an answer of a version; with `pixels` the shadow computes the image again."""
        is_new = self._duplicates.is_new(seen.fingerprint, seen.client, seen.received)
        if self.judge is not None:
            outcome = _outcome(seen, is_duplicate=not is_new)
            counted = self.judge.observe(self._arm(served), outcome, seen.tag.key or "")
            if counted and is_new:
                self._remember_counted(seen.tag.image_id)
        if self.shadowing is None:
            return
        if pixels is not None:
            self.shadowing.repeat(Answered(image, pixels, seen, is_duplicate=not is_new))
        elif seen.tag.is_shadowed:  # another process could not send it in time
            self.shadowing.drop()

    def observe_failure(self, served: Served, kind: Kind, received: float, key: str) -> None:
        """Observe that a version did not answer an image for the judge."""
        if self.judge is not None:
            self.judge.observe(self._arm(served), Outcome(kind, received), key)

    def observe_feedback(self, request_id: str, digest: str, *, agrees: bool) -> None:
        """Add the true class of an image, if the judge has counted the image."""
        if self.judge is None or self.canary is None or request_id not in self._counted:
            return
        if digest == self.canary.served.bundle.digest:
            self.judge.observe_feedback("canary", agrees=agrees)
        elif digest == self.stable.bundle.digest:
            self.judge.observe_feedback("stable", agrees=agrees)

    def close(self) -> None:
        """Drop the shadow's images that wait."""
        if self.shadowing is not None:
            self.shadowing.close()

    def _remember_counted(self, request_id: str) -> None:
        self._counted[request_id] = None
        if len(self._counted) > MAX_ANSWERS:
            self._counted.popitem(last=False)

    def _arm(self, served: Served) -> Arm:
        return "stable" if served is self.stable else "canary"

    def _shadowing_of(self, served: Served, request_id: str) -> Shadowing | None:
        """Return the shadow that computes this image again, if one does."""
        shadow = self.shadow
        if shadow is None or served is not self.stable:
            return None
        chosen = chooses_shadow(request_id, shadow.share, self._shadow_salt)
        return self.shadowing if chosen else None


def _outcome(seen: Observation, *, is_duplicate: bool) -> Outcome:
    return Outcome(
        "answered",
        seen.received,
        seen.queue_s + seen.engine_s,
        seen.class_id,
        seen.p_value,
        rejected=seen.decision == "reject",
        duplicate=is_duplicate,
    )


def salt_of(version: Version) -> str:
    """Return what makes the choices of one trial independent of another's."""
    return f"{version.name}/{version.version}"


def failure_of(error: TidegateError) -> Kind | None:
    """Return what an error says about the version; None if it says nothing."""
    return _FAILURES.get(type(error))
