"""The steps of a rollout: promote and roll back, by an operator or by the judge."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from tidegate.service.errors import ServingInvalid, ServingNotWritable, TidegateError
from tidegate.service.metrics import Metrics
from tidegate.service.reload import Reloader
from tidegate.service.rollout.judge import Verdict
from tidegate.service.rollouts import Rollout, Trial
from tidegate.service.serving.changes import Versions, promote, require_served, roll_back
from tidegate.service.serving.edit import Change, update
from tidegate.service.serving.plan import ModelPlan
from tidegate.service.wanted import ModelFolder, Source

log = logging.getLogger(__name__)

MAX_EVENTS = 50  # remembered per model


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a rollout."""

    at: str  # UTC
    step: str  # one of metrics.tables.ROLLOUT_STEPS
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

        def change(old: ModelPlan | None, versions: Versions) -> ModelPlan:
            return promote(require_served(old), versions, alias, expected=expected)

        step = "promote" if alias == "canary" else "promote-shadow"
        return await self._step(name, _Noted(change, alias), step, by, why)

    async def roll_back(
        self, name: str, by: str, why: tuple[str, ...] = (), expected: str | None = None
    ) -> Event:
        """End a model's canary; without one, make the version before stable again.

        Raises as `promote`.
        """

        def change(old: ModelPlan | None, versions: Versions) -> ModelPlan:
            return roll_back(require_served(old), versions, expected)

        return await self._step(name, _Noted(change, "canary"), "rollback", by, why)

    async def judge(self) -> None:
        """Do what the judges of all models say; raise the first error once all were asked."""
        errors: list[TidegateError] = []
        for name, model in list(self._reloader.catalog.models.items()):
            if model.rollout is not None:
                try:
                    await self._judge(name, model.rollout)
                except TidegateError as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    async def _judge(self, name: str, rollout: Rollout) -> None:
        if rollout.judge is not None and rollout.canary is not None:
            await self._obey(name, "canary", rollout.judge.decide(), rollout.canary)
        elif rollout.shadowing is not None and rollout.shadow is not None:
            await self._obey(name, "shadow", rollout.shadowing.judge.decide(), rollout.shadow)

    async def _obey(self, name: str, alias: str, verdict: Verdict, trial: Trial) -> None:
        why = tuple(finding.text for finding in verdict.why)
        if verdict.step == "rollback":
            await self.roll_back(name, "judge", why, trial.served.version)
        elif verdict.step == "promote":
            await self.promote(name, alias, "judge", why, trial.served.version)

    async def _step(
        self, name: str, change: _Noted, step: str, by: str, why: tuple[str, ...]
    ) -> Event:
        if not isinstance(self._source, ModelFolder):
            raise ServingInvalid(
                "There are no other versions: TIDEGATE_BUNDLE is one bundle. Set TIDEGATE_MODELS "
                "to a folder of bundles."
            )
        plan = self._reloader.catalog.model(name).plan
        is_served = False
        if step == "rollback":  # it must not wait for the disk, or for a version that is loading
            is_served = await self._reloader.serve_now(
                name, change(plan, tuple(plan.named.values()))
            )
        try:
            kept = await self._keep(self._source, name, change)
        except ServingInvalid as error:
            if not is_served or not await self._is_unreadable(self._source):
                raise
            log.warning("%s The rollback holds until the file can be read.", error)
            kept = False
        else:
            done = await self._reloader.reload(self._source.read)
            if done[name].outcome == "refused" and not is_served:
                raise ServingInvalid(done[name].detail)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        event = Event(at, step, by, change.version, why, kept)
        self._events.setdefault(name, deque(maxlen=MAX_EVENTS)).append(event)
        self._metrics.stepped(name, step)
        log.warning(
            "%s of %s %s by the %s: %s", step, name, event.version, by, " ".join(why) or "-"
        )
        return event

    @staticmethod
    async def _keep(source: ModelFolder, name: str, change: _Noted) -> bool:
        """Write the change into the serving file; return False if it is held in memory instead."""
        if not source.holds_plans:  # else the file does not say what this step changes
            try:
                await asyncio.to_thread(update, source.place, name, change)
            except ServingNotWritable as error:
                log.warning("%s The step holds until the process ends or the file changes.", error)
            else:
                return True
        await asyncio.to_thread(source.hold, name, change)
        return False

    async def _is_unreadable(self, source: ModelFolder) -> bool:
        """Serve what the file says, which somebody has changed; return whether that is invalid."""
        try:
            await self._reloader.reload(source.read)
        except ServingInvalid:
            return True
        return False


class _Noted:
    """A change that notes the version that it was about, for the file may name another one."""

    def __init__(self, change: Change, alias: str) -> None:
        self.version = ""
        self._change, self._alias = change, alias

    def __call__(self, old: ModelPlan | None, versions: Versions) -> ModelPlan:
        after = self._change(old, versions)
        before = require_served(old).resolve(versions)
        self.version = before.named.get(self._alias, before.stable)
        return after
