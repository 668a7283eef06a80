"""The steps of a rollout: promote and roll back, by an operator or by the judge."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tidegate.service.errors import ServingInvalid, ServingNotWritable
from tidegate.service.metrics import Metrics
from tidegate.service.reload import Reloaded, Reloader
from tidegate.service.rollout.judge import Verdict
from tidegate.service.serving.changes import Versions, promote, require_served, roll_back
from tidegate.service.serving.edit import update
from tidegate.service.serving.plan import ModelPlan
from tidegate.service.wanted import ModelFolder, Source, Wanted

log = logging.getLogger(__name__)

MAX_EVENTS = 50  # remembered per model

Change = Callable[[ModelPlan | None, Versions], ModelPlan]


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a rollout."""

    at: str  # UTC
    step: str  # one of metrics.ROLLOUT_STEPS
    by: str  # operator or judge
    version: str  # that was promoted or rolled back
    why: tuple[str, ...]
    kept: bool  # whether the serving file says it too


class Steps:
    """Writes each step into the serving file, serves it, and remembers it."""

    def __init__(self, source: Source, reloader: Reloader, metrics: Metrics) -> None:
        self._source = source
        self._reloader = reloader
        self._metrics = metrics
        self._events: dict[str, deque[Event]] = {}

    def events(self, name: str) -> tuple[Event, ...]:
        """Return the last steps of a model, the newest first."""
        return tuple(reversed(self._events.get(name, ())))

    async def promote(
        self, name: str, alias: str, by: str, why: tuple[str, ...] = (), expected: str | None = None
    ) -> Event:
        """Make a model's canary stable, or its shadow the canary.

        Raises NotFound, ServingInvalid, or BundleRefused if a version cannot be loaded.
        """
        plan = self._reloader.catalog.model(name).plan
        version = plan.named.get(alias, "")

        def change(old: ModelPlan | None, versions: Versions) -> ModelPlan:
            return promote(require_served(old), versions, alias, expected=expected)

        step = "promote" if alias == "canary" else "promote-shadow"
        return await self._step(name, change, step, by, version, why)

    async def roll_back(
        self, name: str, by: str, why: tuple[str, ...] = (), expected: str | None = None
    ) -> Event:
        """End a model's canary; without one, make the version before stable again.

        Raises as `promote`.
        """
        plan = self._reloader.catalog.model(name).plan
        version = plan.named.get("canary", plan.stable)

        def change(old: ModelPlan | None, versions: Versions) -> ModelPlan:
            return roll_back(require_served(old), versions, expected)

        return await self._step(name, change, "rollback", by, version, why)

    async def judge(self) -> None:
        """Do what the judges of all canaries say."""
        for name, model in list(self._reloader.catalog.models.items()):
            rollout = model.rollout
            if rollout is None:
                continue
            if rollout.judge is not None and rollout.canary is not None:
                await self._obey(name, rollout.judge.decide(), rollout.canary.served.version)
            elif rollout.shadow is not None and rollout.may_promote_shadow:
                why = (f"{rollout.compared} images compared",)
                await self.promote(name, "shadow", "judge", why, rollout.shadow.served.version)

    async def _obey(self, name: str, verdict: Verdict, version: str) -> None:
        why = tuple(finding.text for finding in verdict.why)
        if verdict.step == "rollback":
            await self.roll_back(name, "judge", why, version)
        elif verdict.step == "promote":
            await self.promote(name, "canary", "judge", why, version)

    async def _step(
        self, name: str, change: Change, step: str, by: str, version: str, why: tuple[str, ...]
    ) -> Event:
        if not isinstance(self._source, ModelFolder):
            raise ServingInvalid(
                "There are no other versions: TIDEGATE_BUNDLE is one bundle. Set TIDEGATE_MODELS "
                "to a folder of bundles."
            )
        plan = self._reloader.catalog.model(name).plan
        if step == "rollback":  # it must not wait for the disk, or for a version that is loading
            await self._reloader.serve_now(name, change(plan, tuple(plan.named.values())))
        kept = True
        try:
            await asyncio.to_thread(update, self._source.place, name, change)
            wanted = await asyncio.to_thread(self._source.read)
        except ServingNotWritable as error:
            log.warning("%s The step holds until the process ends or the file changes.", error)
            kept = False
            wanted = await asyncio.to_thread(self._overridden, self._source, name, change)
        except ServingInvalid:  # somebody has changed the file
            await self._reloader.reload(await asyncio.to_thread(self._source.read))
            raise
        done = await self._reloader.reload(wanted)
        _check(done[name])
        event = Event(datetime.now(UTC).isoformat(timespec="seconds"), step, by, version, why, kept)
        self._events.setdefault(name, deque(maxlen=MAX_EVENTS)).append(event)
        self._metrics.stepped(name, step)
        log.warning("%s of %s %s by the %s: %s", step, name, version, by, " ".join(why) or "-")
        return event

    @staticmethod
    def _overridden(source: ModelFolder, name: str, change: Change) -> Wanted:
        wanted = source.read()
        versions = source.versions(name)
        models = {**wanted.plan.models, name: change(wanted.plan.models.get(name), versions)}
        return source.wanted(replace(wanted.plan, models=models))


def _check(done: Reloaded) -> None:
    if done.outcome == "refused":
        raise ServingInvalid(done.detail)
