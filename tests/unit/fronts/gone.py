"""Wait until both ends of a connection are closed: a loop that ends before warns of open ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Gone:
    """Counts the ends that are lost."""

    def __init__(self) -> None:
        self._lost = asyncio.Queue[None]()

    def after(self, lost: Callable[[], None]) -> Callable[[], None]:
        """Return a callback for a lost end that counts it and then calls `lost`."""

        def count() -> None:
            self._lost.put_nowait(None)
            lost()

        return count

    async def both(self) -> None:
        """Return when two ends are lost."""
        await self._lost.get()
        await self._lost.get()
