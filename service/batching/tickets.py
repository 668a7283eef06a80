"""An admitted request and its answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from tidegate.service.batching.decode_queue import Job
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.placement import Placement
from tidegate.service.batching.policy import Waiting
from tidegate.service.batching.slots import Image
from tidegate.service.progress import BatchRun
from tidegate.service.types import Outputs


class Answer(NamedTuple):
    """The engine's outputs for one image, and how long each step took, in seconds."""

    outputs: Outputs  # [1, …]
    decode_s: float
    queue_s: float  # from ready to dispatched
    engine_s: float
    batch_size: int  # images in the batch that ran


@dataclass(slots=True, eq=False)
class Ticket(Waiting):
    """One admitted request; times in seconds."""

    lane: Lane
    answer: asyncio.Future[Answer]
    predicted_s: float  # from admission to the answer, as predicted at admission
    cost: DecodeCost  # from the image's header
    client: str  # address; `work_s` counts against it until the ticket is released
    typical_decode_s: float  # how long decoding usually takes
    placement: Placement  # where the image is decoded; the slot afterwards
    job: Job | None = None  # while the image waits for a decoder or is on one
    image: Image | None = None  # set when it is ready for a slot
    decode_at: float | None = None  # when decoding began, on time.monotonic()
    decode_s: float = 0.0  # measured
    run: BatchRun | None = None  # once the engine has run its batch
    ready_at: float = 0.0
    dispatched_at: float = 0.0
    queued: bool = field(default=True)  # counted as waiting: admitted but not dispatched
    released: bool = False
