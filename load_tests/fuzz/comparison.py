"""Compares answers with the reference, in a separate process."""

import asyncio
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from load_tests.fuzz import reference
from load_tests.fuzz.failures import Failures
from load_tests.fuzz.mutants import Mutant
from load_tests.fuzz.oracles import Violation

MAX_WAITING = 16  # further answers are skipped, so that the campaign does not wait


class Comparison:
    """Compares in the background and adds differences to `failures`; idle without a bundle."""

    def __init__(self, bundle: Path | None, failures: Failures) -> None:
        self.compared = 0
        self.skipped = 0
        self._bundle = bundle
        self._failures = failures
        self._pool = None if bundle is None else self._new_pool(bundle)
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, sent: Mutant, body: bytes) -> None:
        """Compare the answer `body` to an image that was accepted."""
        if self._pool is None or len(self._tasks) >= MAX_WAITING * (8 if sent.number < 0 else 1):
            self.skipped += 1
            return
        task = asyncio.create_task(self._one(sent, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait for all submitted comparisons."""
        await asyncio.gather(*self._tasks)

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    async def _one(self, sent: Mutant, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        image = sent.image or b""
        try:
            difference = await loop.run_in_executor(self._pool, reference.differs, image, body)
        except BrokenProcessPool:  # the image crashed Pillow, which is Pillow's fault
            self.skipped += 1
            self._pool = None if self._bundle is None else self._new_pool(self._bundle)
            return
        self.compared += 1
        if difference:
            origin = f"mutant {sent.number}: {sent.origin}"
            self._failures.add(Violation("reference", difference), sent.request, origin)

    def _new_pool(self, bundle: Path) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            1, get_context("spawn"), initializer=reference.open_bundle, initargs=(bundle,)
        )
