"""Make what is served equal to what is wanted, while requests are answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from tidegate.service.building import Builder
from tidegate.service.catalog import STABLE, Catalog, Model
from tidegate.service.errors import BundleRefused, StartupError
from tidegate.service.loaded_versions import LoadedVersions
from tidegate.service.rollouts import Rollout, Trial
from tidegate.service.served import Served
from tidegate.service.serving.plan import ModelPlan
from tidegate.service.wanted import Wanted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did with one model."""

    outcome: Literal["loaded", "unchanged", "refused", "unloaded"]
    detail: str


class Reloader:
    """Owns the catalog. One reload runs at a time."""

    def __init__(
        self,
        builder: Builder,
        loaded: LoadedVersions,
        *,
        on_difference: Callable[[str, bytes], object],
        on_catalog: Callable[[], object],
    ) -> None:
        self.catalog = Catalog("", {})
        self._builder = builder
        self.loaded = loaded
        self._on_difference = on_difference
        self._on_catalog = on_catalog
        self._turn = asyncio.Lock()
        self._steps = 0  # taken with `serve_now`; a reload that began before one is dropped

    async def start(self, first: Served, wanted: Wanted) -> None:
        """Serve the plan; `first` is the stable version of its default model.

        Raises StartupError if a stable version is refused. Other versions that are refused are
        logged, and the service starts without them.
        """
        async with self._turn:
            self.loaded.keep(first)
            await self._apply(wanted, self._steps, starting=True)

    async def reload(self, read: Callable[[], Wanted | None]) -> dict[str, Reloaded]:
        """Serve what `read` returns, if anything; it blocks, and may raise.

        It is called when no other reload runs, so that a later reload never serves an earlier plan.
        If a version of a model is refused, that model stays as it was.
        """
        async with self._turn:
            steps = self._steps
            wanted = await asyncio.to_thread(read)
            if wanted is None:
                return {}
            return await self._apply(wanted, steps)

    async def serve_now(self, name: str, plan: ModelPlan) -> bool:
        """Serve another plan of a model at once, if all its versions are loaded.

        It does not wait for a reload that loads something; that one is dropped.
        """
        loaded = self.loaded.of_model(name)
        if not set(plan.named.values()) <= loaded.keys():
            return False
        versions = {version: loaded[version] for version in plan.named.values()}
        self._steps += 1
        models = {**self.catalog.models, name: self._model(name, plan, versions, {})}
        await self._swap(replace(self.catalog, models=models))
        return True

    async def tidy(self) -> None:
        """Unload the versions that were kept long enough, unless one still answers a request."""
        async with self._turn:
            await self.loaded.tidy()

    async def close(self, timeout_s: float) -> None:
        """Stop the drift monitors of all versions; their states are saved."""
        await self.loaded.stop_watching(self.loaded, timeout_s)

    async def _apply(
        self, wanted: Wanted, steps: int, *, starting: bool = False
    ) -> dict[str, Reloaded]:
        """Serve a plan that was read after `steps` steps, unless there has been another one."""
        models: dict[str, Model] = {}
        done: dict[str, Reloaded] = {}
        self.loaded.begin()
        for name, plan in wanted.plan.models.items():
            self._builder.metrics.start_reloads(name)
            model, done[name] = await self._next(name, plan, wanted, starting=starting)
            if model is not None:
                models[name] = model
        default = wanted.plan.default
        if default not in models:  # it was refused
            default = self.catalog.default
            models.setdefault(default, self.catalog.models[default])
        for name in self.catalog.models.keys() - done.keys():
            done[name] = Reloaded("unloaded", "no longer in the serving file")
            if name in models:
                done[name] = Reloaded("unchanged", f"{wanted.plan.default} cannot replace it")
        if steps != self._steps:
            return dict.fromkeys(done, Reloaded("unchanged", "another step was taken meanwhile"))
        await self._swap(Catalog(default, models))
        for name, one in done.items():
            self._builder.metrics.reloaded(name, one.outcome)
            level = logging.WARNING if one.outcome == "refused" else logging.INFO
            log.log(level, "reload of %s: %s: %s", name, one.outcome, one.detail)
        return done

    async def _next(
        self, name: str, plan: ModelPlan, wanted: Wanted, *, starting: bool
    ) -> tuple[Model | None, Reloaded]:
        """Load what a plan needs; return the model, which stays as it was if that is refused."""
        old = self.catalog.models.get(name)
        versions, refused = await self._versions(name, plan, wanted)
        if starting and plan.stable in refused:
            raise BundleRefused(refused[plan.stable])
        if refused and (old is not None or plan.stable in refused):
            kept = None if old is None else replace(old, refused=refused)
            return kept, Reloaded("refused", "\n".join(refused.values()))
        model = self._model(name, plan, versions, refused)
        return model, _changes(old, model)

    async def _versions(
        self, name: str, plan: ModelPlan, wanted: Wanted
    ) -> tuple[dict[str, Served], dict[str, str]]:
        """Return the versions of a plan that are loaded now, and why others are not."""
        versions: dict[str, Served] = {}
        refused: dict[str, str] = {}
        compared = partial(self._to_compare_with, name)
        for version in dict.fromkeys(plan.named.values()):
            try:
                versions[version] = await self.loaded.get(name, version, wanted, compared)
            except StartupError as error:
                refused[version] = str(error)
        return versions, refused

    def _to_compare_with(self, name: str) -> Served:
        """Return a loaded version to compare durations with: of the same model, if there is one."""
        model = self.catalog.models.get(name) or self.catalog.models.get(self.catalog.default)
        return model.stable if model is not None else next(iter(self.loaded))

    def _model(
        self,
        name: str,
        plan: ModelPlan,
        versions: Mapping[str, Served],
        refused: Mapping[str, str],
    ) -> Model:
        aliases = {alias: v for alias, v in plan.named.items() if v in versions}
        rollout = self._rollout(plan, versions, self.catalog.models.get(name))
        return Model(name, plan, versions, aliases, rollout, refused)

    def _rollout(
        self, plan: ModelPlan, versions: Mapping[str, Served], old: Model | None
    ) -> Rollout | None:
        """Return the plan's rollout; the one that runs, if nothing about it differs."""
        stable = versions[plan.stable]
        canary, shadow = (
            None
            if planned is None or planned.version not in versions
            else Trial(versions[planned.version], planned.share)
            for planned in (plan.canary, plan.shadow)
        )
        if canary is None and shadow is None:
            return None
        running = None if old is None else old.rollout
        if running is not None and running.follow(stable, canary, shadow, plan.judge):
            return running
        return Rollout(
            stable,
            canary,
            shadow,
            plan.judge,
            self._builder.workers.scheduler,
            partial(self._builder.metrics.shadowed, stable.name),
            self._on_difference,
        )

    async def _swap(self, catalog: Catalog) -> None:
        """Serve another catalog. What is no longer used stays loaded for a rollback."""
        used = {
            served.bundle.digest: served
            for model in catalog.models.values()
            for served in model.versions.values()
        }
        for model in catalog.models.values():
            for served in model.versions.values():
                served.lane.weight = model.plan.weight
        dropped = self.loaded.use(used)
        for name, model in self.catalog.models.items():
            if model.rollout is not None and model.rollout is not _rollout_of(catalog, name):
                model.rollout.close()
        self.catalog = catalog
        self._on_catalog()
        self._builder.metrics.set_aliases(
            (model.name, version, model.versions[version].bundle.short_digest, alias)
            for model in catalog.models.values()
            for alias, version in model.aliases.items()
        )
        await self.loaded.stop_watching(dropped)


def _changes(old: Model | None, new: Model) -> Reloaded:
    """Return what a reload changed, in words."""
    if old is not None and old.plan == new.plan and _digests(old) == _digests(new):
        return Reloaded("unchanged", f"stable is {new.aliases[STABLE]}")
    served = ", ".join(f"{alias} is {version}" for alias, version in new.aliases.items())
    left_out = "".join(f"; {version} is refused: {why}" for version, why in new.refused.items())
    return Reloaded("loaded", served + left_out)


def _rollout_of(catalog: Catalog, name: str) -> Rollout | None:
    model = catalog.models.get(name)
    return None if model is None else model.rollout


def _digests(model: Model) -> set[str]:
    return {served.bundle.digest for served in model.versions.values()}
