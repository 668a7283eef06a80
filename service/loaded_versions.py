"""The versions that are loaded: those in use, and those kept for a rollback."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tidegate.service import memory
from tidegate.service.building import Builder
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import read_manifest
from tidegate.service.errors import BundleRefused, StartupError
from tidegate.service.loading import Loader
from tidegate.service.served import Served
from tidegate.service.wanted import Wanted

log = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.05
_SAVE_S = 5.0  # for the drift monitors' last save: a network disk may hang


@dataclass(slots=True)
class _Unused:
    """A version without an alias, kept for a rollback."""

    served: Served
    since: float = field(default_factory=time.monotonic)


class LoadedVersions:
    """Loads and unloads; a version is known by its digest. One reload at a time calls it."""

    def __init__(
        self,
        builder: Builder,
        loader: Loader,
        *,
        rollback_s: float,
        most: int,
        on_watch_end: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Keep versions without an alias for `rollback_s`; load at most `most` in all."""
        self._builder = builder
        self._loader = loader
        self._rollback_s = rollback_s
        self._most = most
        self._on_watch_end = on_watch_end
        self._used: dict[str, Served] = {}
        self._unused: dict[str, _Unused] = {}
        self._needed: set[str] = set()  # what the reload in progress has found or loaded

    def __iter__(self) -> Iterator[Served]:
        """Yield every loaded version, also those that answer no requests."""
        yield from self._used.values()
        yield from (unused.served for unused in self._unused.values())

    def of_model(self, name: str) -> dict[str, Served]:
        """Return the loaded versions of a model.

        Of two bundles of one version, the one in use: the other was replaced in its folder.
        """
        kept = (unused.served for unused in self._unused.values())
        return {one.version: one for one in (*kept, *self._used.values()) if one.name == name}

    def keep(self, served: Served) -> None:
        """Keep a version that was just loaded until it is used, or for a rollback."""
        self._unused[served.bundle.digest] = _Unused(served)

    def begin(self) -> None:
        """Begin a reload: what it gets is not unloaded to make room before the next one."""
        self._needed.clear()

    async def get(
        self, name: str, version: str, wanted: Wanted, compared: Callable[[], Served]
    ) -> Served:
        """Return a version, and load it if it is not; `compared` returns what to compare it with.

        Raises StartupError if it is refused.
        """
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
                known = await self._load(folder, manifest, wanted, compared())
            except StartupError:
                raise
            except Exception as error:  # the runtimes' exceptions share no base class
                log.exception("loading %s failed", folder)
                raise BundleRefused(
                    f"{folder} cannot be loaded: {type(error).__name__}: {error}"
                ) from error
        self._needed.add(manifest.digest)
        return known

    def use(self, used: Mapping[str, Served]) -> list[Served]:
        """Watch and show these; return those that are no longer used, kept for a rollback."""
        dropped = [served for digest, served in self._used.items() if digest not in used]
        for digest, served in used.items():
            self._unused.pop(digest, None)
            if served.watching is None:
                self._builder.metrics.show_model(served.metrics)
                served.watching = asyncio.create_task(served.watch.run())
                served.watching.add_done_callback(self._on_watch_end)
        self._used = dict(used)
        for served in dropped:
            self.keep(served)
            self._builder.metrics.hide_model(served.metrics)
        return dropped

    async def stop_watching(self, versions: Iterable[Served], timeout_s: float = _SAVE_S) -> None:
        """Stop the drift monitors of versions, and wait until their states are saved.

        All are stopped before the first wait, in which another step may use them again.
        """
        tasks = [self._stop_watching(served) for served in versions]
        if waiting := set(filter(None, tasks)):
            await asyncio.wait(waiting, timeout=min(_SAVE_S, timeout_s))

    async def tidy(self) -> None:
        """Unload the versions that were kept long enough, unless one still answers a request."""
        now = time.monotonic()
        for digest in list(self._unused):
            unused = self._unused.get(digest)  # another step may use one meanwhile
            if unused is not None and now - unused.since >= self._rollback_s:
                await self._unload(digest)

    async def _load(
        self, folder: Path, manifest: Manifest, wanted: Wanted, compared: Served
    ) -> Served:
        scheduler = self._builder.workers.scheduler
        loaded = await self._loader.load(folder, scheduler, compared.lane)
        try:
            if loaded.bundle.digest != manifest.digest:
                raise BundleRefused(f"{folder} has changed while it was read: reload again.")
            state = wanted.drift_states.get((manifest.name, manifest.version))
            served = await self._builder.build(loaded.bundle, loaded.lane, loaded.monitor, state)
            scheduler.open_lane(loaded.lane)
        except Exception:
            await asyncio.to_thread(loaded.lane.close)
            raise
        self.keep(served)
        return served

    async def _make_room(self, version: str) -> None:
        while len(self._used) + len(self._unused) >= self._most:
            idle = [digest for digest in self._unused if digest not in self._needed]
            if not idle:
                raise BundleRefused(
                    f"Version {version} is not loaded: {self._most} others are needed, and "
                    f"TIDEGATE_MAX_LOADED_VERSIONS is {self._most}."
                )
            oldest = min(idle, key=lambda digest: self._unused[digest].since)
            while not await self._unload(oldest):  # noqa: ASYNC110 - slots' threads finish it
                await asyncio.sleep(_DRAIN_POLL_S)

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

    def _stop_watching(self, served: Served) -> asyncio.Task[None] | None:
        """Cancel the evaluation of the drift monitors; the task ends once their state is saved."""
        watching, served.watching = served.watching, None
        if watching is not None:
            watching.remove_done_callback(self._on_watch_end)
            watching.cancel()
        return watching
