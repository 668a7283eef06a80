"""The policy under overload, light load, mixed deadlines and mixed classes, in virtual time.

One slot, ℓ(b) = 0.30 + 0.013·b ms with 5 % jitter, batches of 64, deadlines of 15 ms.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.batching.simulation import Tally, World, simulate
from tidegate.service.types import Priority

ONE_SLOT = World(rate=60_000, deadline_s=0.015, images=20_000)
LONGER = replace(ONE_SLOT, images=60_000)  # one second: enough for a queue to collapse
# A convnet on a CPU: batching gains nothing, so each of two cores runs one image at a time.
TWO_CORES = replace(
    ONE_SLOT, deadline_s=0.1, max_batch_size=1, slots=2, fixed_s=0.0054, per_image_s=0.0001
)
simulated = functools.cache(simulate)


def share_in_time(world: World, tally: Tally) -> float:
    return tally.in_time / world.images


def of_capacity(world: World, tally: Tally) -> float:
    """Answers in time per second, as a fraction of the slots' capacity."""
    return share_in_time(world, tally) * world.rate / world.capacity


def at(load: float, world: World = ONE_SLOT) -> World:
    return replace(world, rate=load * world.capacity)


@pytest.mark.lengthy
def test_at_six_percent_over_capacity_most_are_answered_in_time() -> None:
    assert LONGER.rate / LONGER.capacity == pytest.approx(1.06, abs=0.005)

    assert share_in_time(LONGER, simulated(LONGER)) >= 0.85


@pytest.mark.lengthy
def test_without_the_policy_the_same_load_collapses() -> None:
    tally = simulated(LONGER, admission=False, early_drop=False)

    assert share_in_time(LONGER, tally) < 0.30


@pytest.mark.lengthy
@pytest.mark.parametrize("load", [1.06, 2, 3])
@pytest.mark.parametrize("world", [ONE_SLOT, replace(ONE_SLOT, slots=3), TWO_CORES])
def test_the_capacity_stays_in_use_under_overload(world: World, load: float) -> None:
    world = at(load, world)

    assert of_capacity(world, simulated(world)) >= 0.85


@pytest.mark.lengthy
@pytest.mark.parametrize("world", [at(0.5), at(0.5, replace(ONE_SLOT, slots=3))])
def test_at_half_load_every_request_is_answered_in_time(world: World) -> None:
    assert share_in_time(world, simulated(world)) >= 0.999


@pytest.mark.lengthy
@pytest.mark.parametrize("load", [0.5, 1.06, 3])
def test_admitted_requests_are_rarely_late(load: float) -> None:
    tally = simulated(at(load))

    assert tally.late + tally.dropped <= 0.01 * ONE_SLOT.images


@pytest.mark.lengthy
def test_overload_runs_full_batches() -> None:
    assert np.mean(simulated(at(2)).sizes) > 0.95 * ONE_SLOT.max_batch_size


def test_at_light_load_an_image_does_not_wait_for_others() -> None:
    world = replace(ONE_SLOT, rate=20, images=500)  # one arrival in a hundred batch times

    tally = simulated(world)

    assert set(tally.sizes) == {1}
    single_s = world.duration(1, 0.0)
    assert np.median(tally.latencies) == pytest.approx(single_s, rel=0.05)  # the jitter
    assert max(tally.latencies) < 1.5 * single_s


@pytest.mark.parametrize("load", [0.5, 1.06, 3])
@pytest.mark.parametrize("spread", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("bulk_share", [0.0, 0.5])
def test_every_arrival_gets_exactly_one_outcome(
    load: float, spread: float, bulk_share: float
) -> None:
    world = replace(at(load), images=8_000, spread=spread, bulk_share=bulk_share)

    tally = simulated(world)

    assert tally.outcomes == world.images
    assert tally.outcomes_of == Counter(range(world.images))


@pytest.mark.lengthy
@pytest.mark.parametrize("load", [0.5, 1.06, 2])
@pytest.mark.parametrize("spread", [0.3, 0.6, 0.95])
def test_mixed_deadlines_lose_no_capacity(load: float, spread: float) -> None:
    world = replace(at(load), spread=spread)

    tally = simulated(world)

    assert of_capacity(world, tally) >= min(0.97 * load, 0.85)
    assert tally.late <= 0.01 * world.images


@pytest.mark.lengthy
@pytest.mark.parametrize("load", [1.06, 2])
def test_no_image_runs_that_is_predicted_to_be_late(load: float) -> None:
    tally = simulated(replace(at(load), spread=0.95, bulk_share=0.5))

    assert tally.waited_too_long == 0


@pytest.mark.lengthy
def test_the_bulk_class_is_shed_first() -> None:
    world = replace(at(1.4), bulk_share=0.5)

    by_class = simulated(world).by_class

    served = {p: by_class["in_time", p] for p in Priority}
    offered = Counter(p for (_, p), count in by_class.items() for _ in range(count))
    assert served[Priority.INTERACTIVE] >= 0.99 * offered[Priority.INTERACTIVE]
    assert 0.1 < served[Priority.BULK] / offered[Priority.BULK] < 0.6


@pytest.mark.lengthy
def test_the_bulk_class_is_served_if_there_is_capacity() -> None:
    world = replace(at(0.8), bulk_share=0.3)

    assert share_in_time(world, simulated(world)) >= 0.999
