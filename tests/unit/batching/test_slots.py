"""A slot's thread, and the isolation of broken images in a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from queue import SimpleQueue

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import FakeEngine, identity_in, identity_of, picture
from tidegate.service.batching.isolate import run_isolating
from tidegate.service.batching.slots import Batch, BatchResult, Slot
from tidegate.service.engines.base import TopUp
from tidegate.service.engines.warm_up import random_image
from tidegate.service.types import Outputs, Pixels

PATIENCE_S = 150.0


def _unexpected(reason: str) -> None:
    raise AssertionError(reason)


class Recorder:
    """Runs batches on a fake engine and counts the runs."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine

    def __call__(self, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        return self._engine.run(0, images)

    @property
    def runs(self) -> int:
        return len(self._engine.batches)


@pytest.mark.lengthy
@settings(max_examples=150, deadline=None)
@given(st.integers(1, 64), st.data())
def test_only_broken_images_fail_and_the_results_keep_their_order(
    count: int, data: st.DataObject
) -> None:
    breaking = data.draw(st.sets(st.integers(0, count - 1)))
    blind = data.draw(st.sets(st.integers(0, count - 1)))
    run = Recorder(FakeEngine(max_batch_size=64, breaking=breaking, blind=blind))

    rows = run_isolating(run, [picture(identity) for identity in range(count)])

    assert len(rows) == count
    for identity, row in enumerate(rows):
        if identity in breaking | blind:
            assert isinstance(row, Exception)
        else:
            assert isinstance(row, Outputs)
            assert identity_in(row) == identity
            assert row.logits.shape[0] == row.scores.shape[0] == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.data())
def test_isolating_one_broken_image_needs_two_runs_per_halving(
    count: int, data: st.DataObject
) -> None:
    run = Recorder(FakeEngine(max_batch_size=64, breaking={data.draw(st.integers(0, count - 1))}))

    run_isolating(run, [picture(identity) for identity in range(count)])

    assert run.runs <= 1 + 2 * math.ceil(math.log2(count))


def test_a_batch_without_broken_images_runs_once() -> None:
    run = Recorder(FakeEngine())

    run_isolating(run, [picture(identity) for identity in range(8)])

    assert run.runs == 1


def test_infinite_scores_are_a_failure() -> None:
    def run(images: Sequence[Pixels], top_up: TopUp | None) -> Outputs:
        outputs = FakeEngine().run(0, images)
        outputs.scores[0, 1] = np.inf
        return outputs

    broken, sound = run_isolating(run, [picture(0), picture(1)])

    assert isinstance(broken, ArithmeticError)
    assert isinstance(sound, Outputs)


@pytest.mark.parametrize("poison", [{"breaking": {1}}, {"blind": {1}}])
def test_only_a_batch_without_failures_is_clean(poison: dict[str, set[int]]) -> None:
    assert on_a_slot(FakeEngine(), [0, 1]).clean
    assert not on_a_slot(FakeEngine(**poison), [0, 1]).clean  # type: ignore[arg-type]  # by name


def on_a_slot(engine: FakeEngine, identities: list[int]) -> BatchResult:
    slot, results = Slot(0, on_death=_unexpected), SimpleQueue[BatchResult]()
    try:
        slot.run(Batch([picture(identity) for identity in identities], results.put, engine, 0))
        return results.get(timeout=PATIENCE_S)
    finally:
        slot.stop()
        assert slot.join(PATIENCE_S)


def test_a_slot_runs_its_queued_batches_before_it_stops() -> None:
    engine, results = FakeEngine(held=True), SimpleQueue[BatchResult]()
    slot = Slot(0, on_death=_unexpected)

    for identity in range(3):
        slot.run(Batch([picture(identity)], results.put, engine, 0))
    slot.stop()
    assert not slot.join(0.0)
    engine.release(3)

    assert slot.join(PATIENCE_S)
    assert engine.batches == [[0], [1], [2]]
    assert results.qsize() == 3


def test_a_slot_continues_after_a_failed_batch() -> None:
    engine, results = FakeEngine(breaking={0}), SimpleQueue[BatchResult]()
    slot = Slot(0, on_death=_unexpected)

    slot.run(Batch([picture(0)], results.put, engine, 0))
    slot.run(Batch([picture(1)], results.put, engine, 0))
    slot.stop()

    assert slot.join(PATIENCE_S)
    assert isinstance(results.get().rows[0], Exception)
    assert isinstance(results.get().rows[0], Outputs)


def test_a_slot_runs_the_batch_that_done_returns() -> None:
    engine, results = FakeEngine(), SimpleQueue[BatchResult]()
    slot = Slot(0, on_death=_unexpected)

    def done(result: BatchResult) -> Batch:
        results.put(result)
        return Batch([picture(1), picture(2)], results.put, engine, 0)

    slot.run(Batch([picture(0)], done, engine, 0))
    slot.stop()

    assert slot.join(PATIENCE_S)
    assert engine.batches == [[0], [1, 2]]
    assert [result.ran for result in (results.get(), results.get())] == [1, 2]


def on_one_slot(engine: FakeEngine, batches: list[list[int]]) -> list[BatchResult]:
    slot, results = Slot(0, on_death=_unexpected), SimpleQueue[BatchResult]()
    for identities in batches:
        slot.run(Batch([picture(identity) for identity in identities], results.put, engine, 0))
    slot.stop()
    assert slot.join(PATIENCE_S)
    return [results.get() for _ in batches]


def test_an_engine_that_fails_every_batch_and_the_warm_up_s_has_lost_its_device() -> None:
    engine = FakeEngine()
    warm_up_s = identity_of(random_image(engine))
    engine = FakeEngine(breaking=[*range(100), warm_up_s])

    results = on_one_slot(engine, [[number] for number in range(1, 6)])

    assert [bool(result.device_fault.lost) for result in results] == [False] * 4 + [True]
    assert "5 batches in a row failed" in results[-1].device_fault.lost
    assert f"[{warm_up_s}] break the engine" in results[-1].device_fault.lost


def test_images_that_the_engine_rejects_do_not_end_the_service() -> None:
    engine = FakeEngine(breaking=range(1, 50), blind=range(50, 100))

    results = on_one_slot(engine, [[number] for number in range(1, 100)])

    assert not any(result.device_fault.lost for result in results)


def test_one_success_in_between_starts_the_count_again() -> None:
    engine = FakeEngine(breaking=[0, 1])

    results = on_one_slot(engine, [[1], [1], [1], [1], [2], [1], [1], [1, 2], [1], [1]])

    assert not any(result.device_fault.lost for result in results)


def test_lack_of_memory_is_not_a_lost_device() -> None:
    engine = FakeEngine(largest_batch=0)

    results = on_one_slot(engine, [[number] for number in range(1, 20)])

    assert not any(result.device_fault.lost for result in results)
