"""One admitted request, and what it is answered with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.decoders import Job
from tidegate.service.batching.placement import Placement
from tidegate.service.batching.policy import Waiting
from tidegate.service.batching.slots import Image
from tidegate.service.types import Outputs


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine said of one image, and where its time went."""

    outputs: Outputs  # [1, …]
    decode_s: float  # on a decoder's thread
    queue_s: float  # from ready to dispatched
    engine_s: float
    batch_size: int


@dataclass(slots=True, eq=False)
class Ticket(Waiting):
    """One admitted request."""

    answer: asyncio.Future[Answer]
    predicted_s: float  # from admission to the answer, when it was admitted
    cost: DecodeCost  # of its image, from the header
    client: str  # address; work is counted against it until the ticket is left
    work_s: float  # predicted when it was admitted: decoding and engine
    predicted_decode_s: float  # the decoding of that
    placement: Placement  # where its image is decoded; a slot once it is
    job: Job | None = None  # while its image waits for a decoder or is on one
    image: Image | None = None  # once it is ready for a slot
    decode_s: float = 0.0  # measured
    ready_at: float = 0.0
    dispatched_at: float = 0.0
    queued: bool = field(default=True)  # counted as waiting: admitted and not dispatched
