"""What the pipeline needs of a scheduler, in this process or in another one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.types import Pixels, Priority


class Submit(Protocol):
    """Admits requests and runs the engine on their pixels."""

    def admit(
        self,
        lane: Lane,
        deadline: float,
        priority: Priority,
        cost: DecodeCost,
        client: str,
        received: float,
    ) -> Ticket: ...

    def run(self, ticket: Ticket, decode: Callable[[], Pixels]) -> Awaitable[Answer]: ...

    def submit(self, ticket: Ticket, image: Pixels) -> Awaitable[Answer]: ...

    def leave(self, ticket: Ticket) -> object: ...
