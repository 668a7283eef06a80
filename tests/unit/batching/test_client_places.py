"""One client address cannot use all places or all time, even with long deadlines."""

from __future__ import annotations

import threading

import pytest

from tests.fakes import picture
from tests.unit.batching.running import FREE, PATIENCE_S, Stage, on_stage
from tidegate.service.batching.client_places import ClientPlaces
from tidegate.service.batching.decode_times import DecodeCost
from tidegate.service.errors import Overloaded
from tidegate.service.types import Pixels

GREEDY, SECOND, MODEST = "192.0.2.1", "192.0.2.2", "192.0.2.3"
LARGE = DecodeCost("WEBP", 0.4, large=True)
LONG_S = 60.0  # the longest deadline that a client may set


def flood(on: Stage, client: str, cost: DecodeCost, within_s: float = LONG_S) -> int:
    """Send until a request is rejected; return how many were admitted."""
    for sent in range(10_000):
        try:
            on.admit(within_s, client=client, cost=cost)
        except Overloaded:
            return sent
    raise AssertionError("no request was rejected")


def test_the_only_active_client_may_use_every_place() -> None:
    places = ClientPlaces()
    for _ in range(8):
        assert places.are_free(GREEDY, 8, part=1.0)
        places.add(GREEDY)

    assert not places.are_free(GREEDY, 8, part=1.0)


def test_clients_beyond_their_fair_share_fill_half_of_the_places_together() -> None:
    places = ClientPlaces()
    for client in (GREEDY, SECOND) * 100:
        if places.are_free(client, 100, part=1 / 3):
            places.add(client)

    assert places.taken == 50
    for _ in range(25):
        assert places.are_free(MODEST, 100, part=1 / 3)
        places.add(MODEST)


def test_a_weight_is_a_larger_share_of_the_places() -> None:
    places = ClientPlaces()
    parts = {GREEDY: 0.25, SECOND: 0.75}
    for client in (GREEDY, SECOND) * 100:
        if places.are_free(client, 100, parts[client]):
            places.add(client)

    assert places._taken == {GREEDY: 25, SECOND: 75}


def test_a_client_without_a_place_gets_one_while_any_is_free() -> None:
    places = ClientPlaces()
    for _ in range(60):
        places.add(GREEDY)

    assert places.are_free(MODEST, 100, part=0.001)
    assert not places.are_free(GREEDY, 100, part=0.001)


def test_a_removed_place_leaves_no_record() -> None:
    places = ClientPlaces()
    places.add(GREEDY)
    places.remove(GREEDY)

    assert (places.taken, dict(places._taken)) == (0, {})


@pytest.mark.parametrize("cost", [FREE, LARGE], ids=["queue", "large"])
def test_one_address_cannot_use_all_places_while_others_send(cost: DecodeCost) -> None:
    async def play(on: Stage) -> None:
        on.scheduler.leave(on.admit(client=MODEST, cost=cost))
        assert flood(on, GREEDY, cost) == 4

        assert on.shed("client-share") == 1
        for _ in range(3):
            on.admit(within_s=2.0, client=MODEST, cost=cost)
        assert on.shed("queue-full") == 0

    on_stage(play, max_queue=8 if cost is FREE else 10_000, large_decoders=1)


def test_a_long_deadline_does_not_increase_a_share_of_the_queue() -> None:
    async def play(on: Stage) -> None:
        gate = threading.Event()

        def slow() -> Pixels:
            gate.wait(PATIENCE_S)
            return picture(1)

        def send(client: str, within_s: float) -> None:
            on.run(on.admit(within_s, client=client, cost=LARGE), slow)

        def send_many(client: str, within_s: float) -> None:
            for _ in range(4):
                send(client, within_s)

        on.scheduler.leave(on.admit(client=MODEST))
        with pytest.raises(Overloaded):
            send_many(GREEDY, LONG_S)  # 0.4 s each; its share is half of two seconds

        assert on.shed("client-share") == 1
        send(MODEST, 2.0)
        gate.set()

    on_stage(play, large_decoders=1, default_deadline_s=2.0)
