"""What a front end reports of its images: a note in the slot, or a message if more is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.remote import Destination, Remote
from tidegate.service.batching.statistics import Total
from tidegate.service.batching.tickets import Ticket
from tidegate.service.fronts.increments import Counting
from tidegate.service.fronts.messages import Channel
from tidegate.service.fronts.notes import pack_note
from tidegate.service.fronts.published import LaneFacts
from tidegate.service.metrics import Metrics
from tidegate.service.observing import Observation
from tidegate.service.review.image_store import ReviewConfig, Selection
from tidegate.service.rollout.outcomes import Kind

_MOST_UNSENT_BYTES = 16 << 20  # images for review or a shadow; beyond it they are not sent
_MOST_IMAGE_BYTES = 64 << 20


class Reports:
    """Sends what is not in the slots. Used on the event loop."""

    def __init__(
        self,
        channel: Channel,
        remote: Remote,
        metrics: Metrics,
        lanes: dict[Lane, int],
        review: ReviewConfig | None,
    ) -> None:
        """`lanes` gets the number of each open lane; without `review` no image is kept."""
        self._channel = channel
        self._remote = remote
        self._metrics = metrics
        self._counting = Counting(metrics)
        self._selection = None if review is None else Selection(review)
        self._lanes = lanes
        self._failed: dict[Lane, Total] = {}

    def open(self, lane: Lane, number: int) -> None:
        """Report a lane by its number."""
        self._lanes[lane] = number

    def close(self, lane: Lane) -> None:
        """Forget a lane that is idle."""
        if lane in self._failed:
            self._send_failed()
        self._remote.close_lane(lane)
        del self._lanes[lane]

    def wants_image(self, seen: Observation) -> bool:
        """Return whether an image is to be kept for review; those beyond the rate are counted."""
        if self._selection is None or not self._selection.is_wanted(seen.decision):
            return False
        if self._selection.take_token():
            return True
        self._metrics.reviewed("over-rate")
        return False

    def send_image(self, ticket: Ticket, image: bytes, seen: Observation, wanted: bool) -> bool:
        """Send an observation with its image, and its pixels for the shadow.

        Returns False, and sends nothing, if it is too large or while too much was not read.
        """
        if len(image) > _MOST_IMAGE_BYTES or self._channel.unsent_bytes > _MOST_UNSENT_BYTES:
            if wanted:
                self._metrics.reviewed("disk-busy")
            return False
        views = self._remote.views(ticket)
        pixels = views.pixels.tobytes() if seen.tag.is_shadowed else b""
        note = pack_note(seen)
        parts = [note, views.features.tobytes(), image, pixels]
        self._channel.send(
            "answered",
            b"".join(parts),
            lane=self._lanes[ticket.lane],
            sizes=[len(part) for part in parts],
            wanted=wanted,
        )
        return True

    def failed(self, lane: Lane, seconds: float) -> None:
        """Report an image that was not answered, with the others of this turn of the loop."""
        if not self._failed:
            asyncio.get_running_loop().call_soon(self._send_failed)
        self._failed.setdefault(lane, Total()).add(seconds)

    def failure(self, lane: Lane, kind: Kind, received: float, key: str) -> None:
        """Report a failure to the judge of a rollout."""
        self._channel.send(
            "failure", key.encode(), lane=self._lanes[lane], failed=kind, received=received
        )

    def sampled(self, lane: Lane, statistics: Mapping[str, float]) -> None:
        """Report the input statistics of an image."""
        self._channel.send("sampled", lane=self._lanes[lane], statistics=dict(statistics))

    def count(self, asked: int = 0) -> None:
        """Send what was counted since the last time; `asked` is the number of the question."""
        increments, waiting = self._counting.take(), self._remote.waiting
        self._channel.send("counted", increments=increments, asked=asked, waiting=waiting)

    def _send_failed(self) -> None:
        failed, self._failed = self._failed, {}
        lanes = [(self._lanes[lane], total.count, total.ns) for lane, total in failed.items()]
        self._channel.send("failed", lanes=lanes)


class FrontObserver:
    """Observes the images of one version in a front end. It is an `Observer`."""

    def __init__(self, remote: Remote, reports: Reports, lane: Lane, facts: LaneFacts) -> None:
        self._remote = remote
        self._reports = reports
        self._lane = lane
        self.watches_inputs = facts.watches_inputs
        remote.open_lane(lane, Destination(facts.number, facts.layout))

    def answered(self, ticket: Ticket, image: bytes, seen: Observation) -> None:
        """Write a note into the slot; for review, or for the shadow, send the image as well."""
        wanted = bool(image) and self._reports.wants_image(seen)
        if (wanted or seen.tag.is_shadowed) and self._reports.send_image(
            ticket, image, seen, wanted
        ):
            return
        note = pack_note(seen)
        self._remote.views(ticket).note[: len(note)] = note
        self._remote.note(ticket)

    def failed(self, seconds: float) -> None:
        """Count an image that was not answered."""
        self._reports.failed(self._lane, seconds)

    def sampled(self, statistics: Mapping[str, float]) -> None:
        """Report the input statistics of an image."""
        self._reports.sampled(self._lane, statistics)
