"""What one version has done since it was loaded: numbers that only increase. On the event loop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

_NS = 1e9


@dataclass(slots=True)
class Total:
    """How often something was done, and for how long altogether."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += int(seconds * _NS)


@dataclass(slots=True)
class Statistics:
    """The images of one version, and the batches that its engine ran."""

    answered: Total = field(default_factory=Total)  # from the last byte to the answer
    failed: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)  # all waiting; of answered images, like the next
    decode: Total = field(default_factory=Total)
    engine: Total = field(default_factory=Total)
    gates: Total = field(default_factory=Total)
    batches: dict[int, Total] = field(default_factory=dict)  # by the number of images
    last_answer: float = 0.0  # time.time(); 0 before the first answer

    def answer(self, total: float, queue: float, decode: float, engine: float) -> None:
        """Count one answered image, with its times in seconds."""
        self.answered.add(total)
        self.queue.add(queue)
        self.decode.add(decode)
        self.engine.add(engine)
        self.last_answer = time.time()

    def run(self, images: int, engine_s: float) -> None:
        """Count one batch."""
        if images:
            self.batches.setdefault(images, Total()).add(engine_s)
