"""The road of one image.

upload → validate → admit → decode → preprocess → queue → batch → engine → gates → response
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar

from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.submit import Submit
from tidegate.service.batching.tickets import Answer, Ticket
from tidegate.service.bundle.store import Bundle
from tidegate.service.deciding import Decided, Prediction, Probabilities, best, decide
from tidegate.service.drift.duplicates import Fingerprint, fingerprint
from tidegate.service.drift.input_sampler import InputSampler
from tidegate.service.errors import DeadlineMissed, TidegateError
from tidegate.service.imaging.decoder_pool import DecoderPool
from tidegate.service.imaging.header import Header
from tidegate.service.imaging.preprocess import inspector, preprocess
from tidegate.service.imaging.statistics import input_sample
from tidegate.service.memory import TrimWhenQuiet
from tidegate.service.metrics import Metrics
from tidegate.service.observing import UNTAGGED, Observation, Observer, Tag
from tidegate.service.ood.gates import Verdict
from tidegate.service.progress import Progress
from tidegate.service.types import Float32, Outputs, Pixels, Priority

Start = Callable[[Ticket], Awaitable[Answer]]  # hands an admitted image to the scheduler
T = TypeVar("T")
_DECODED = DecodeCost(decoded=True)


@dataclass(frozen=True, slots=True)
class Upload:
    """A validated request for one image, either encoded or as pixels."""

    image: bytes  # b"" if there are pixels
    received: float  # time.monotonic() when the last byte had arrived
    deadline: float  # on the same clock
    top_k: int
    priority: Priority = Priority.INTERACTIVE
    client: str = ""  # the client's address
    pixels: Pixels | None = None  # preprocessed by the client, of the size that the model has
    progress: Progress = field(default_factory=Progress)
    features: bool = False  # whether the answer has them


class Timing(NamedTuple):
    """The duration of each part in seconds. `queue` is all waiting: for a decoder and for a slot.

    `predicted` is the prediction of `total` at admission.
    """

    decode: float
    queue: float
    engine: float
    total: float
    predicted: float


class Classification(NamedTuple):
    """The answer for one image; the API decides how to respond to a rejected one."""

    predictions: tuple[Prediction, ...]
    probabilities: Probabilities  # of all classes
    verdict: Verdict
    scores: Mapping[str, float]  # in the order of the graph's columns
    nearest_class: int
    timing: Timing
    batch_size: int
    observation: Observation  # what an observer learned from it
    features: Float32 | None = None  # [D], if the upload asked for them


# An image is decoded by a separate process if it takes longer than this to decode, or keeps the
# interpreter lock for longer. In seconds of the reference core; a JPEG of 25 megapixels is below.
_LARGE_S = 0.1
_LARGE_INTERPRETER_S = 0.03
SAMPLE_EVERY_S = 0.25  # a sample takes a millisecond, an answer about ten


class Pipeline:
    """Classifies uploads with one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        lane: Lane,
        submit: Submit,
        observer: Observer,
        metrics: Metrics,
        max_image_pixels: int,
        pool: DecoderPool | None = None,
        sample_every_s: float = SAMPLE_EVERY_S,
    ) -> None:
        """`pool` decodes large images; without it they are decoded like the others.

        The observer gets the input statistics of at most one image per `sample_every_s`.
        """
        self.bundle = bundle
        self._lane = lane
        self._submit = submit
        self._observer = observer
        self._metrics = metrics
        self._max_image_pixels = max_image_pixels
        self._header_of = inspector(bundle.manifest.preprocess, max_image_pixels)
        self._pool = pool
        self._sampler = InputSampler(sample_every_s)
        self._trim = TrimWhenQuiet()

    async def classify(
        self,
        upload: Upload,
        tag: Tag = UNTAGGED,
        keep: Callable[[Pixels], None] | None = None,
    ) -> Classification:
        """Classify one image by its deadline. `keep` gets its pixels, on the decoder's thread.

        `tag` is for the observer.
        Raises Overloaded or Draining before any decoding, an image error, DeadlineMissed at the
        deadline, or EngineFailed. On cancellation the image leaves the queue.
        """
        try:
            return await self._classify(upload, tag, keep)
        except TidegateError:
            self._observer.failed(time.monotonic() - upload.received)
            raise

    async def _classify(
        self, upload: Upload, tag: Tag, keep: Callable[[Pixels], None] | None
    ) -> Classification:
        upload.progress.received = upload.received
        seen: list[Fingerprint] = []  # one, once the image is decoded
        if upload.pixels is not None:
            cost, pixels = _DECODED, upload.pixels

            def start(ticket: Ticket) -> Awaitable[Answer]:
                return self._submit.submit(ticket, _look(pixels, seen, keep))
        else:
            header, cost = self._inspect(upload.image)

            def start(ticket: Ticket) -> Awaitable[Answer]:
                decode = self._observed_decode(upload.image, header, cost, seen, keep)
                return self._submit.run(ticket, decode)

        def respond(ticket: Ticket, answer: Answer) -> Classification:
            return self._respond(upload, tag, ticket, answer, seen[0])

        return await self._run(upload, cost, start, respond)

    async def look(self, upload: Upload) -> tuple[Pixels, Outputs]:
        """Return what the network sees of an image and what it computes, which nothing counts.

        Raises the same errors as `classify`.
        """
        header, cost = self._inspect(upload.image)
        seen: list[Pixels] = []
        to_pixels = self._decode(upload.image, header, cost)

        def decode() -> Pixels:
            pixels = to_pixels()
            seen.append(pixels)
            return pixels

        start = partial(self._submit.run, decode=decode)
        outputs = await self._run(upload, cost, start, _outputs)
        return seen[0], outputs

    async def compute(self, upload: Upload, pixels: Callable[[], Pixels]) -> Outputs:
        """Return what the network computes for these pixels, which nothing counts.

        `upload` says for whom and by when; its image is not used. Raises the same errors as
        `classify`, except those of images.
        """
        start = partial(self._submit.run, decode=pixels)
        return await self._run(upload, DecodeCost(), start, _outputs)

    async def _run(
        self,
        upload: Upload,
        cost: DecodeCost,
        start: Start,
        use: Callable[[Ticket, Answer], T],
    ) -> T:
        """Return what `use` makes of the answer. `start` is called once the image is admitted."""
        progress = upload.progress
        ticket = self._submit.admit(
            self._lane, upload.deadline, upload.priority, cost, upload.client, upload.received
        )
        progress.predicted_s = ticket.predicted_s
        left_s = upload.deadline - time.monotonic()
        alarm = asyncio.get_running_loop().call_later(left_s, self._too_late, ticket)
        try:
            return use(ticket, await start(ticket))
        finally:
            alarm.cancel()
            _note(ticket, progress)
            self._submit.leave(ticket)
            del ticket  # breaks a cycle: error → traceback → this frame → ticket → error

    def decide(self, outputs: Outputs) -> Decided:
        """Return what this version makes of one image's outputs, which nothing counts."""
        return decide(self.bundle, outputs)

    def pixels(self, image: bytes) -> Pixels:
        """Decode and preprocess an image that another version has already accepted."""
        return preprocess(image, self.bundle.manifest.preprocess, self._max_image_pixels)

    def _too_late(self, ticket: Ticket) -> None:
        if not ticket.answer.done():
            self._metrics.shed("deadline")
            late = DeadlineMissed("The deadline passed before the answer was ready.")
            ticket.answer.set_exception(late)

    def _inspect(self, image: bytes) -> tuple[Header, DecodeCost]:
        """Return an encoded image's header, and its cost. Raises image errors."""
        header = self._header_of(image)
        work = header.work
        self._trim.note(work.peak_bytes)
        large = work.seconds > _LARGE_S or work.interpreter_s > _LARGE_INTERPRETER_S
        if self.bundle.manifest.preprocess.decoder == "nvjpeg" and header.kind == "JPEG":
            large = False  # the GPU is used from this process alone
        return header, DecodeCost(header.kind, work.seconds, large and self._pool is not None)

    def _decode(self, image: bytes, header: Header, cost: DecodeCost) -> Callable[[], Pixels]:
        """Return a function for the decoder's thread."""
        spec = self.bundle.manifest.preprocess
        if cost.large and self._pool is not None:
            return partial(self._pool.preprocess, image, spec)
        return partial(preprocess, image, spec, self._max_image_pixels, header)

    def _observed_decode(
        self,
        image: bytes,
        header: Header,
        cost: DecodeCost,
        seen: list[Fingerprint],
        keep: Callable[[Pixels], None] | None,
    ) -> Callable[[], Pixels]:
        """Return a function for the decoder's thread, which also appends the fingerprint."""
        spec = self.bundle.manifest.preprocess
        to_pixels = self._decode(image, header, cost)
        sampled = self._observer.watches_inputs and self._sampler.wants(time.monotonic())

        def decode() -> Pixels:
            pixels = to_pixels()
            seen.append(fingerprint(pixels))
            if keep is not None:
                keep(pixels)
            if sampled:
                self._sampler.add(input_sample(image, pixels, spec.channel_order))
            return pixels

        return decode

    def _respond(
        self, upload: Upload, tag: Tag, ticket: Ticket, answer: Answer, seen: Fingerprint
    ) -> Classification:
        outputs = answer.outputs
        started = time.monotonic()
        decided = decide(self.bundle, outputs)
        predictions = best(self.bundle, decided, upload.top_k)
        verdict, scores = decided.verdict, outputs.scores[0].tolist()
        now = time.monotonic()
        total = now - upload.received
        waited = total - answer.decode_s - answer.engine_s
        timing = Timing(answer.decode_s, waited, answer.engine_s, total, ticket.predicted_s)
        top = predictions[0]
        observation = Observation(
            tag=tag,
            client=upload.client,
            received=upload.received,
            time=time.time(),
            class_id=top.class_id,
            probability=top.probability,
            decision=verdict.decision,
            p_value=verdict.p_value,
            scores=tuple(scores),
            fingerprint=seen,
            features=outputs.features[0],
            total_s=total,
            queue_s=waited,
            decode_s=answer.decode_s,
            engine_s=answer.engine_s,
            gates_s=now - started,
        )
        classification = Classification(
            predictions=predictions,
            probabilities=decided.probabilities,
            verdict=verdict,
            scores=dict(zip(self.bundle.gate.folds_a, scores, strict=True)),
            nearest_class=int(outputs.nearest_class[0]),
            timing=timing,
            batch_size=answer.batch_size,
            observation=observation,
            features=outputs.features[0].copy() if upload.features else None,
        )
        progress = upload.progress
        progress.gates_at, progress.gates_s, progress.ended = started, now - started, now
        progress.decision, progress.p_value = verdict.decision, verdict.p_value
        self._count(timing, now - started)
        self._observer.answered(ticket, upload.image, observation)
        for sample in self._sampler.take():
            self._observer.sampled(sample)
        return classification

    def _count(self, timing: Timing, gates_s: float) -> None:
        stages = self._metrics.stages
        stages["decode"].observe(timing.decode)
        stages["queue"].observe(timing.queue)
        stages["engine"].observe(timing.engine)
        stages["gates"].observe(gates_s)


def _outputs(_: Ticket, answer: Answer) -> Outputs:
    return answer.outputs


def _look(pixels: Pixels, seen: list[Fingerprint], keep: Callable[[Pixels], None] | None) -> Pixels:
    """Do with a client's pixels what decoding does with an image's."""
    seen.append(fingerprint(pixels))
    if keep is not None:
        keep(pixels)
    return pixels


def _note(ticket: Ticket, progress: Progress) -> None:
    """Note the steps that a ticket has passed, whatever its outcome."""
    progress.decode_at, progress.decode_s = ticket.decode_at, ticket.decode_s
    progress.batch = ticket.run
