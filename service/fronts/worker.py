"""One front end, from its start to its end, as the process of the engine has it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Protocol

from starlette.types import ASGIApp

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.link import Link
from tidegate.service.batching.peer import Peer, ProtocolError
from tidegate.service.batching.ring import Layout, Ring, SlotViews
from tidegate.service.batching.scheduler import Scheduler
from tidegate.service.fronts import handover
from tidegate.service.fronts.child import Child
from tidegate.service.fronts.increments import Adding
from tidegate.service.fronts.messages import Channel
from tidegate.service.fronts.observations import Observations
from tidegate.service.fronts.published import CatalogFacts, Hello, LaneChange, LaneFacts
from tidegate.service.fronts.relay import KINDS, RelayServer
from tidegate.service.metrics import Metrics

log = logging.getLogger(__name__)


class Owner(Protocol):
    """The owner of all front ends."""

    def on_up(self, worker: Worker) -> None:
        """Take note that a front end can be given connections."""
        ...

    def on_closed(self, address: str) -> None:
        """Take note that a connection of this address has ended."""
        ...

    def on_records(self, worker: Worker) -> None:
        """Take note that records were handled, which may have changed what waits."""
        ...

    def on_lane_closed(self, worker: Worker, number: int) -> None:
        """Take note that a front end has no request for a lane, and will have none."""
        ...

    def on_lost(self, worker: Worker) -> None:
        """Take note that a front end is gone."""
        ...


class Worker:
    """A front end. Used on the event loop."""

    def __init__(
        self,
        child: Child,
        hello: Hello,
        owner: Owner,
        metrics: Metrics,
        observed: Observations,
    ) -> None:
        """Use a process, whose sockets belong to this object from now on."""
        self.index = hello.index
        self.is_up = False
        self.is_starting = True
        self.is_ended = False  # it was killed, and its sockets may still be open
        self.started_at = time.monotonic()
        self.gone = asyncio.Event()
        self.connections: dict[int, str] = {}  # number → address
        self.waiting = 0  # images for a decoder, as it said last
        self.answered_count = 0  # the number of the last question that it has answered
        self.peer: Peer | None = None
        self._hello = hello
        self._owner = owner
        self._observed = observed
        self._adding = Adding(metrics)
        self._lanes: dict[int, tuple[Lane, Layout]] = {}
        self._holds: dict[int, ExitStack] = {}
        self._slots_of_ring = 0
        self._told_to_stop = False
        self._records, self._messages = child.records, child.messages
        self._handover, self.process = child.handover, child.process
        self.silence = child.silence
        self._handlers = {
            "waiting": self._on_waiting,
            "up": self._on_up,
            "counted": self._on_counted,
            "failed": self._on_failed,
            "answered": self._on_answered,
            "failure": self._on_failure,
            "sampled": self._on_sampled,
            "closed": self._on_closed,
        }
        self._link = Link(self._take_records, self._lose_link)
        self._channel = Channel(self._take_message, self._lose)
        self._relay: RelayServer

    async def open(self, app: ASGIApp) -> None:
        """Connect to the process, and send it what it needs to serve; `app` answers its relays."""
        self._relay = RelayServer(app, self._channel)
        await self._link.open(self._records)
        await self._channel.open(self._messages)
        self._channel.send("hello", pickle.dumps(self._hello))

    def open_engine(self, scheduler: Scheduler, slots: int) -> None:
        """Let it send images; `slots` is the number that it may have in its memory at a time."""
        self._slots_of_ring = slots
        self.peer = Peer(
            scheduler, self._link.send, self._lanes.get, self._note, self._close_connection
        )
        self._channel.send("engine", slots=scheduler.slots)

    def publish(self, lanes: Mapping[Lane, LaneFacts], catalog: CatalogFacts) -> None:
        """Send a catalog, and the versions in it that it does not have. Raises OSError."""
        for lane, facts in lanes.items():
            if facts.number not in self._lanes:
                self._open_lane(lane, facts)
        self._channel.send("catalog", pickle.dumps(catalog))

    def change(self, changes: Mapping[int, LaneChange]) -> None:
        """Send what has changed of lanes."""
        if self._lanes:
            self._channel.send("change", pickle.dumps(dict(changes)))

    def give(self, connection: socket.socket, number: int, address: str) -> bool:
        """Give it an accepted connection; return False if it does not read."""
        try:
            handover.hand_over(
                self._handover, handover.Kind.CONNECTION, number, connection.fileno()
            )
        except OSError:
            return False
        self.connections[number] = address
        return True

    def ask_counts(self, question: int) -> None:
        """Ask for what was counted; `answered_count` becomes the number of the question."""
        self._channel.send("count", asked=question)

    def load_files(self) -> None:
        """Let it load the files of keys and certificates if they have changed."""
        self._channel.send("files")

    def drain(self) -> None:
        """Let each response close its connection."""
        self._channel.send("draining")

    def stop(self) -> None:
        """Let it end once its requests are answered."""
        self._told_to_stop = True
        self._channel.send("stop")

    def kill(self) -> None:
        """End the process at once."""
        self.is_ended = True
        with contextlib.suppress(OSError):
            self.process.kill()

    # What arrives

    def _take_records(self, records: Any) -> None:
        if self.peer is None:
            return
        try:
            self.peer.take(records)
        except (ProtocolError, ValueError):
            log.exception("front end %d is ended: records", self.index)
            self.kill()
        self._owner.on_records(self)

    def _take_message(self, kind: str, fields: dict[str, Any], content: bytes) -> None:
        if kind in KINDS:
            self._relay.take(kind, fields, content)
            return
        try:
            self._handlers[kind](fields, content)
        except (KeyError, TypeError, ValueError):
            log.exception("front end %d is ended: message %r", self.index, kind)
            self.kill()

    def _on_waiting(self, _: dict[str, Any], __: bytes) -> None:
        """Do nothing: it matters only of one that is started ahead."""

    def _on_up(self, _: dict[str, Any], __: bytes) -> None:
        if self.is_ended:
            return
        self.is_starting, self.is_up = False, True
        self._owner.on_up(self)

    def _on_counted(self, fields: dict[str, Any], _: bytes) -> None:
        self._adding.add(fields["increments"])
        self.waiting = int(fields["waiting"])
        self.answered_count = max(self.answered_count, int(fields["asked"]))

    def _on_failed(self, fields: dict[str, Any], _: bytes) -> None:
        for number, count, ns in fields["lanes"]:
            self._observed.failed(self._lanes[number][0], count, ns)

    def _on_answered(self, fields: dict[str, Any], content: bytes) -> None:
        lane, layout = self._lanes[fields["lane"]]
        wanted = bool(fields["wanted"])
        self._observed.answered(lane, layout, fields["sizes"], content, wanted=wanted)

    def _on_failure(self, fields: dict[str, Any], content: bytes) -> None:
        lane, _ = self._lanes[fields["lane"]]
        self._observed.failure(lane, fields["failed"], fields["received"], content.decode())

    def _on_sampled(self, fields: dict[str, Any], _: bytes) -> None:
        self._observed.sampled(self._lanes[fields["lane"]][0], fields["statistics"])

    def _on_closed(self, fields: dict[str, Any], _: bytes) -> None:
        number = fields["lane"]
        del self._lanes[number]
        self._holds.pop(number).close()
        self._owner.on_lane_closed(self, number)

    def _note(self, lane: Lane, views: SlotViews) -> None:
        self._observed.noted(lane, views)

    def _close_connection(self, number: int) -> None:
        if (address := self.connections.pop(number, None)) is not None:
            self._owner.on_closed(address)

    def _open_lane(self, lane: Lane, facts: LaneFacts) -> None:
        """Keep a lane open while this front end may use it, and make room for its images."""
        assert self.peer is not None  # noqa: S101 - `open_engine` comes first
        if all(ring.slot_bytes < facts.layout.size for ring in self.peer.rings):
            ring = Ring.create(self._slots_of_ring, facts.layout.size)
            self.peer.rings.append(ring)
            self._hand_over(ring)
            ring.close_descriptor()
            self._channel.send("ring", slots=ring.slots, slot_bytes=ring.slot_bytes)
        hold = self._holds[facts.number] = ExitStack()
        hold.enter_context(lane.receiving())
        self._lanes[facts.number] = lane, facts.layout
        self._channel.send("lane", pickle.dumps(facts))

    def _hand_over(self, ring: Ring) -> None:
        """Send it a memory; end it if it does not read, or has just ended."""
        number = len(self.peer.rings) if self.peer is not None else 0
        try:
            handover.hand_over(self._handover, handover.Kind.RING, number, ring.descriptor)
        except OSError as error:
            log.warning("front end %d takes no memory (%s): it is ended", self.index, error)
            self.kill()

    def _lose_link(self) -> None:
        """End it, and then its messages, of which the last ones are still read."""
        self.is_up = False
        if not self._told_to_stop:
            self.kill()

    def _lose(self) -> None:
        self.gone.set()
        self.is_starting = self.is_up = False
        if not self._told_to_stop:
            self.kill()
        self._link.close()
        self._handover.close()
        self._relay.lost()
        if self.peer is not None:
            self.peer.lost()
        for hold in self._holds.values():
            hold.close()
        self._adding.end()
        self._owner.on_lost(self)
