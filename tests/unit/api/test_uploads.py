from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.uploads import PROGRESS_BYTES, ByteBudget, Reservation
from tidegate.service.errors import Overloaded

MAX = 100 * PROGRESS_BYTES


class Room:
    """A budget of 100 units of progress, with a manual clock."""

    def __init__(self, max_body: int = 10 * PROGRESS_BYTES) -> None:
        self.now = 0.0
        self.shed = 0
        self.ended: list[Reservation] = []
        self.budget = ByteBudget(MAX, max_body, self._shed, clock=lambda: self.now)
        self.open = contextlib.ExitStack()

    def body(self, client: str, units: float = 0) -> Reservation:
        """A body that is complete, or begins to arrive."""
        body = self.open.enter_context(self.budget.reserve(client))
        body.grow_to(int(units * PROGRESS_BYTES))
        return body

    def arriving(self, client: str, units: float) -> Reservation:
        body = self.open.enter_context(self.budget.reserve(client))
        self.open.enter_context(body.arriving(self._end(body)))
        body.grow_to(int(units * PROGRESS_BYTES))
        body.renew()
        return body

    def _shed(self) -> None:
        self.shed += 1

    def _end(self, body: Reservation) -> Callable[[], None]:
        return lambda: self.ended.append(body)


def test_a_body_that_does_not_fit_is_rejected_and_its_bytes_are_released() -> None:
    room = Room()
    with room.budget.reserve("a") as first, room.budget.reserve("b") as second:
        first.grow_to(7 * MAX // 10)
        with pytest.raises(Overloaded) as refusal:
            second.grow_to(4 * MAX // 10)
        assert refusal.value.retry_after_s
        assert room.budget.used == 7 * MAX // 10

    assert (room.budget.used, room.shed) == (0, 1)


def test_one_address_may_use_a_large_part_but_not_all() -> None:
    room = Room()
    for _ in range(7):
        room.body("proxy", 10)

    with pytest.raises(Overloaded):
        room.body("proxy", 10)
    room.body("other", 10)


def test_one_body_of_the_largest_size_always_fits_an_empty_memory() -> None:
    room = Room(max_body=MAX)

    room.body("a", 100)


def test_announcing_a_body_reserves_nothing_and_evicts_nothing() -> None:
    room = Room()
    stalled = [room.arriving(client, 50) for client in "ab"]
    room.now = 2
    newcomer = room.body("c")

    newcomer.expect(50 * PROGRESS_BYTES)

    assert (newcomer.held, room.ended) == (0, [])
    assert stalled[0].held


def test_the_longest_stalled_body_is_evicted_and_no_more_than_needed() -> None:
    room = Room()
    first, second = room.arriving("a", 50), room.arriving("b", 50)
    room.now = 1.5
    second.grow_to(second.held)
    room.body("c", 10)

    assert room.ended == [first]
    assert (first.held, first.evicted) == (0, "stalled")
    assert second.held


def test_a_trickle_counts_as_stalled() -> None:
    room = Room()
    trickle, steady = room.arriving("a", 49), room.arriving("b", 49)
    for _ in range(15):
        room.now += 0.1
        trickle.grow_to(trickle.held + 1)
        trickle.renew()
        steady.grow_to(steady.held + 1)
    room.now += 0.1
    steady.grow_to(50 * PROGRESS_BYTES)
    steady.renew()

    room.body("c", 10)

    assert room.ended == [trickle]


def test_an_address_at_its_limit_loses_its_own_stalled_body() -> None:
    """A stalled client behind a proxy does not block the proxy's other clients."""
    room = Room()
    stalled, other = room.arriving("proxy", 70), room.arriving("other", 20)
    room.now = 2

    room.body("proxy", 10)

    assert room.ended == [stalled]
    assert other.held


def test_an_address_with_less_than_an_equal_share_evicts_a_body_of_one_with_more() -> None:
    room = Room()
    greedy = [room.arriving("greedy", 10) for _ in range(7)]
    room.arriving("second", 30)

    room.body("newcomer", 10)

    assert room.ended == greedy[:1]
    assert greedy[0].evicted == "share"


def test_an_address_with_its_equal_share_evicts_no_body() -> None:
    room = Room()
    for client in "ab":
        room.arriving(client, 50)

    with pytest.raises(Overloaded):
        room.body("a", 10)
    assert room.ended == []


def test_nothing_is_evicted_if_that_would_not_free_enough() -> None:
    room = Room()
    room.body("a", 70)  # complete, so it cannot be evicted
    stalled = room.arriving("b", 25)
    room.now = 2

    with pytest.raises(Overloaded):
        room.body("c", 40)
    assert (room.ended, stalled.evicted) == ([], "")


def test_a_complete_body_is_not_evicted() -> None:
    room = Room()
    with room.budget.reserve("a") as complete:
        with complete.arriving(lambda: room.ended.append(complete)):
            complete.grow_to(70 * PROGRESS_BYTES)
        room.now = 60

        with pytest.raises(Overloaded):
            room.body("b", 40)

    assert room.ended == []


def test_each_rejected_or_evicted_body_is_counted() -> None:
    room = Room()
    room.arriving("a", 50)
    room.arriving("b", 50)
    room.now = 2

    room.body("c", 60)

    assert (len(room.ended), room.shed) == (2, 2)


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 60), st.booleans(), st.floats(0, 2)),
    max_size=30,
)


@pytest.mark.lengthy
@given(steps)
def test_the_memory_is_never_exceeded_and_all_of_it_is_released(
    steps: list[tuple[str, int, bool, float]],
) -> None:
    room = Room()
    with room.open:
        for client, units, complete, later in steps:
            room.now += later
            with contextlib.suppress(Overloaded):
                (room.body if complete else room.arriving)(client, units)
            assert room.budget.used <= MAX
            assert sum(room.budget._by_client.values()) == room.budget.used
            assert all(held <= 3 * MAX / 4 for held in room.budget._by_client.values())

    assert room.budget.used == 0
    assert not room.budget._by_client
    assert not room.budget._arriving
