"""What a service does between requests: it follows its files, reloads, and judges canaries."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from tidegate.service.errors import Draining, StartupError, TidegateError
from tidegate.service.followed_files import FollowedFiles
from tidegate.service.metrics import Metrics
from tidegate.service.reload import Reloaded, Reloader
from tidegate.service.steps import Steps
from tidegate.service.wanted import Source

log = logging.getLogger(__name__)

_POLL_S = 2.0  # between two looks at the serving file and the other files
_REFUSED = "the serving file is refused, so nothing changes: %s"


class Following:
    """Serves what the serving file says now, and loads other files again that have changed."""

    def __init__(
        self,
        source: Source,
        reloader: Reloader,
        steps: Steps,
        files: Sequence[FollowedFiles],
        metrics: Metrics,
        *,
        is_ready: Callable[[], bool],
        on_files: Callable[[], object],
    ) -> None:
        """Nothing is done while `is_ready` is false.

        `on_files` is called once one of `files` was loaded again, or refused.
        """
        self._source = source
        self._reloader = reloader
        self._steps = steps
        self._files = files
        self._metrics = metrics
        self._is_ready = is_ready
        self._on_files = on_files
        self._tasks: list[asyncio.Task[None]] = []
        self._requested: set[asyncio.Task[None]] = set()
        self._refusal = ""  # of the serving file, as it was logged last

    def start(self, on_end: Callable[[asyncio.Task[None]], object]) -> None:
        """Start the tasks. `on_end` is called with one that ends before `stop`, which none does."""
        # Canaries are judged apart, so that one is ended while another version is loading.
        for work in (self._follow_serving, self._steps.judge, self._follow_files):
            task = asyncio.create_task(self._repeat(work))
            task.add_done_callback(partial(self._on_task_end, on_end))
            self._tasks.append(task)

    def stop(self) -> None:
        """Cancel the tasks."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()

    async def reload(self) -> dict[str, Reloaded]:
        """Read what shall be served, and serve it; return what was done, by model.

        Raises ServingInvalid, BundleRefused or Draining.
        """
        if not self._is_ready():
            raise Draining("The service is shutting down.")
        try:
            done = await self._reloader.reload(self._source.read)
        except StartupError:
            self._metrics.reloaded("", "refused")
            raise
        self._refusal = ""
        return done

    def request_reload(self) -> None:
        """Reload in the background, and log what is wrong."""
        task = asyncio.create_task(self._reload_and_log())
        self._requested.add(task)  # otherwise the loop has the only reference, a weak one
        task.add_done_callback(self._requested.discard)

    async def _reload_and_log(self) -> None:
        try:
            await self.reload()
        except TidegateError as error:
            log.warning(_REFUSED, error)
        except Exception:
            log.exception("the reload failed; what was served is still served")

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                if self._is_ready():
                    await work()
            except TidegateError as error:
                self._refuse(str(error))
            except Exception:
                log.exception("following the files failed; trying again")

    async def _follow_serving(self) -> None:
        """Serve what the serving file says, and unload what was kept long enough."""
        if await self._reloader.reload(self._source.poll):
            self._refusal = ""
        await self._reloader.tidy()

    async def _follow_files(self) -> None:
        before = [files.known for files in self._files]
        for files in self._files:
            await asyncio.to_thread(files.poll)
        if before != [files.known for files in self._files]:
            self._on_files()

    def _refuse(self, why: str) -> None:
        """Log and count a refusal once, while it is repeated by every look at the file."""
        if why != self._refusal:
            log.warning(_REFUSED, why)
            self._metrics.reloaded("", "refused")
        self._refusal = why

    def _on_task_end(
        self, on_end: Callable[[asyncio.Task[None]], object], task: asyncio.Task[None]
    ) -> None:
        if task in self._tasks:
            on_end(task)
