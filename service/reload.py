"""Make what is served equal to what is wanted, while requests are answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from tidegate.service import memory
from tidegate.service.building import Builder
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import read_manifest
from tidegate.service.catalog import STABLE, Catalog, Model
from tidegate.service.errors import BundleRefused, StartupError
from tidegate.service.loading import Loader
from tidegate.service.rollouts import Rollout, Trial
from tidegate.service.served import Served
from tidegate.service.serving.plan import ModelPlan
from tidegate.service.wanted import Wanted

log = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.05
_SAVE_S = 5.0  # for the drift monitors' last save: a network disk may hang


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did with one model."""

    outcome: Literal["loaded", "unchanged", "refused", "unloaded"]
    detail: str


@dataclass(slots=True)
class _Unused:
    """A version without an alias, kept for a rollback."""

    served: Served
    since: float = field(default_factory=time.monotonic)


class Reloader:
    """Owns the loaded versions and the catalog. One reload runs at a time."""

    def __init__(
        self,
        builder: Builder,
        loader: Loader,
        *,
        rollback_s: float,
        most_loaded: int,
        on_watch_end: Callable[[asyncio.Task[None]], None],
        on_difference: Callable[[str, bytes], object],
        on_catalog: Callable[[], object],
    ) -> None:
        """Keep versions without an alias for `rollback_s`; load at most `most_loaded` in all."""
        self.catalog = Catalog("", {})
        self._builder = builder
        self._loader = loader
        self._rollback_s = rollback_s
        self._most_loaded = most_loaded
        self._on_watch_end = on_watch_end
        self._on_difference = on_difference
        self._on_catalog = on_catalog
        self._used: dict[str, Served] = {}  # by digest
        self._unused: dict[str, _Unused] = {}
        self._turn = asyncio.Lock()
        self._steps = 0  # taken with `serve_now`; a reload that began before one is dropped
        self._needed: set[str] = set()  # digests that the reload in progress has found or loaded

    async def start(self, first: Served, wanted: Wanted) -> None:
        """Serve the plan; `first` is the stable version of its default model.

        Raises StartupError if a stable version is refused. Other versions that are refused are
        logged, and the service starts without them.
        """
        async with self._turn:
            self._unused[first.bundle.digest] = _Unused(first)
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
        # Of two bundles of one version, the one in use: the other was replaced in its folder.
        kept = (unused.served for unused in self._unused.values())
        loaded = {one.version: one for one in (*kept, *self._used.values()) if one.name == name}
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
            now = time.monotonic()
            for digest in list(self._unused):
                unused = self._unused.get(digest)  # `serve_now` may take one meanwhile
                if unused is not None and now - unused.since >= self._rollback_s:
                    await self._unload(digest)

    async def close(self, timeout_s: float) -> None:
        """Stop the drift monitors of all versions; their states are saved."""
        await _ended(map(self._stop_watching, self.loaded()), min(_SAVE_S, timeout_s))

    def loaded(self) -> Iterator[Served]:
        """Yield every loaded version, also those that answer no requests."""
        yield from self._used.values()
        yield from (unused.served for unused in self._unused.values())

    async def _apply(
        self, wanted: Wanted, steps: int, *, starting: bool = False
    ) -> dict[str, Reloaded]:
        """Serve a plan that was read after `steps` steps, unless there has been another one."""
        models: dict[str, Model] = {}
        done: dict[str, Reloaded] = {}
        self._needed.clear()
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
        for version in dict.fromkeys(plan.named.values()):
            try:
                versions[version] = await self._version(name, version, wanted)
            except StartupError as error:
                refused[version] = str(error)
        return versions, refused

    async def _version(self, name: str, version: str, wanted: Wanted) -> Served:
        folder = wanted.folders[name, version]
        manifest = await asyncio.to_thread(read_manifest, folder)
        if (manifest.name, manifest.version) != (name, version):
            raise BundleRefused(
                f"{folder} is now {manifest.name} {manifest.version}: move it to where it belongs."
            )
        known = self._used.get(manifest.digest)
        if known is None and (unused := self._unused.get(manifest.digest)) is not None:
            known = unused.served
        if known is None:
            await self._make_room(version)
            try:
                known = await self._load(folder, manifest, wanted)
            except StartupError:
                raise
            except Exception as error:  # the runtimes' exceptions share no base class
                log.exception("loading %s failed", folder)
                raise BundleRefused(
                    f"{folder} cannot be loaded: {type(error).__name__}: {error}"
                ) from error
        self._needed.add(manifest.digest)
        return known

    async def _load(self, folder: Path, manifest: Manifest, wanted: Wanted) -> Served:
        scheduler = self._builder.workers.scheduler
        loaded = await self._loader.load(folder, scheduler, self._beside(manifest.name).lane)
        try:
            if loaded.bundle.digest != manifest.digest:
                raise BundleRefused(f"{folder} has changed while it was read: reload again.")
            state = wanted.drift_states.get((manifest.name, manifest.version))
            served = await self._builder.build(loaded.bundle, loaded.lane, loaded.monitor, state)
            scheduler.open_lane(loaded.lane)
        except Exception:
            await asyncio.to_thread(loaded.lane.close)
            raise
        self._unused[loaded.bundle.digest] = _Unused(served)
        return served

    def _beside(self, name: str) -> Served:
        """Return a loaded version to compare durations with: of the same model, if there is one."""
        model = self.catalog.models.get(name) or self.catalog.models.get(self.catalog.default)
        return model.stable if model is not None else next(self.loaded())

    async def _make_room(self, version: str) -> None:
        while len(self._used) + len(self._unused) >= self._most_loaded:
            idle = [digest for digest in self._unused if digest not in self._needed]
            if not idle:
                raise BundleRefused(
                    f"Version {version} is not loaded: {self._most_loaded} others are needed, and "
                    f"TIDEGATE_MAX_LOADED_VERSIONS is {self._most_loaded}."
                )
            oldest = min(idle, key=lambda digest: self._unused[digest].since)
            while not await self._unload(oldest):  # noqa: ASYNC110 - slots' threads finish it
                await asyncio.sleep(_DRAIN_POLL_S)

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
        dropped = [served for digest, served in self._used.items() if digest not in used]
        for digest, served in used.items():
            self._unused.pop(digest, None)
            if served.watching is None:
                self._builder.metrics.show_model(served.metrics)
                served.watching = asyncio.create_task(served.watch.run())
                served.watching.add_done_callback(self._on_watch_end)
        for name, model in self.catalog.models.items():
            if model.rollout is not None and model.rollout is not _rollout_of(catalog, name):
                model.rollout.close()
        self.catalog, self._used = catalog, used
        for served in dropped:
            self._unused[served.bundle.digest] = _Unused(served)
            self._builder.metrics.hide_model(served.metrics)
        self._on_catalog()
        self._builder.metrics.set_aliases(
            (model.name, version, model.versions[version].bundle.short_digest, alias)
            for model in catalog.models.values()
            for alias, version in model.aliases.items()
        )
        # All are stopped before the first wait, in which another step may use them again.
        await _ended([self._stop_watching(served) for served in dropped], _SAVE_S)

    def _stop_watching(self, served: Served) -> asyncio.Task[None] | None:
        """Cancel the evaluation of the drift monitors; the task ends once their state is saved."""
        watching, served.watching = served.watching, None
        if watching is not None:
            watching.remove_done_callback(self._on_watch_end)
            watching.cancel()
        return watching

    async def _unload(self, digest: str) -> bool:
        """Unload a version; return False if something waits or runs there."""
        if (unused := self._unused.get(digest)) is None:  # it is used again
            return True
        served = unused.served
        if not self._builder.workers.scheduler.close_lane(served.lane):
            return False
        del self._unused[digest]
        self._loader.remember(served.bundle, served.lane)
        await asyncio.to_thread(served.lane.close)
        await asyncio.to_thread(memory.give_back_free_memory)
        log.info("unloaded %s", served)
        return True


async def _ended(tasks: Iterable[asyncio.Task[None] | None], timeout_s: float) -> None:
    if waiting := set(filter(None, tasks)):
        await asyncio.wait(waiting, timeout=timeout_s)


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
