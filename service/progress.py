"""What happened to one image, and when: filled while it is classified, for logs and traces.

Times are on time.monotonic(), in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class BatchRun:
    """One run of the engine, shared by the images of its batch."""

    started: float
    engine_s: float
    images: int


@dataclass(slots=True)
class Progress:
    """The steps that an image has passed. What it did not reach is None or empty."""

    received: float = 0.0  # its last byte
    predicted_s: float | None = None  # from `received` to the answer; known once it is admitted
    decode_at: float | None = None
    decode_s: float = 0.0
    batch: BatchRun | None = None  # once the engine has run it
    gates_at: float | None = None
    gates_s: float = 0.0
    ended: float = 0.0  # answered, or the response to its error began
    decision: str = ""
    p_value: float = 0.0

    @property
    def engine_s(self) -> float:
        """Return how long its batch took; 0 if the engine did not run it."""
        return 0.0 if self.batch is None else self.batch.engine_s

    @property
    def queue_s(self) -> float:
        """Return all waiting: what is neither decoding nor the engine."""
        return self.ended - self.received - self.decode_s - self.engine_s
