"""Give clients turns: start-time fair queueing (Goyal, Vin and Cheng 1996). Pure."""

from __future__ import annotations

from tidegate.service.types import Priority

_JOB = 8  # images of one client; fewer may be a person's page
Level = tuple[Priority, int]  # class and haste: within one, clients take turns


class Turns:
    """The turns of each client's images, in seconds of work divided by the client's weight.

    A client's next turn is that of the image that was dispatched last, or follows its own last one
    if that is later. A client with one image is therefore next, and a client's job is spread out.
    """

    def __init__(self) -> None:
        self._reached: dict[Level, float] = {}  # the turn that was dispatched last
        self._next: dict[str, dict[Level, float]] = {}  # client → its next turn
        self._images: dict[str, int] = {}  # of each client, that have not left

    def reached(self, level: Level) -> float:
        """Return the turn that was dispatched last."""
        return self._reached.get(level, 0.0)

    def next(self, level: Level, client: str) -> float:
        """Return the turn of a client's next image."""
        return max(self.reached(level), self._next.get(client, {}).get(level, 0.0))

    def take(self, level: Level, client: str, turn: float, work_s: float) -> None:
        """Give a client the turn that `next` returned; `work_s` is divided by its weight."""
        self._next.setdefault(client, {})[level] = turn + work_s
        self._images[client] = self._images.get(client, 0) + 1

    def has_job(self, client: str) -> bool:
        """Return whether a client has many images here."""
        return self._images.get(client, 0) > _JOB

    def dispatched(self, level: Level, turn: float) -> None:
        """Go on to the turn of an image that runs now."""
        self._reached[level] = max(turn, self.reached(level))

    def leave(self, client: str) -> None:
        """Forget a client if this was its last image."""
        self._images[client] -= 1
        if not self._images[client]:
            del self._images[client], self._next[client]
