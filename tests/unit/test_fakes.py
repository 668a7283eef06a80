"""The fakes behave as the tests that use them assume."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.fakes import FakeClock, FakeEngine, identity_in, identity_of, picture


@pytest.mark.parametrize("identity", [0, 1, 255, 256, 65_537, (1 << 24) - 1])
def test_an_identity_survives_the_pixels_and_the_engine(identity: int) -> None:
    outputs = FakeEngine().run(0, [picture(identity)])

    assert identity_of(picture(identity)) == identity
    assert identity_in(outputs) == identity


def test_a_held_batch_ends_when_it_is_released() -> None:
    engine = FakeEngine(held=True)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.run, 0, [picture(7)])
        engine.wait_for(1)
        assert not running.done()
        engine.release()

    assert identity_in(running.result()) == 7


def test_an_image_that_fails_makes_its_whole_batch_fail() -> None:
    engine = FakeEngine(breaking={2})

    with pytest.raises(RuntimeError, match=r"images \[2\]"):
        engine.run(0, [picture(1), picture(2)])
    assert engine.run(0, [picture(1)]).all_finite() == [True]


def test_a_blind_image_gets_nan_and_its_neighbour_does_not() -> None:
    outputs = FakeEngine(blind={2}).run(0, [picture(1), picture(2)])

    assert outputs.all_finite() == [True, False]
    assert np.isnan(outputs.scores[1, 0])


def test_a_violation_of_the_engine_contract_is_an_error() -> None:
    engine = FakeEngine(max_batch_size=2)

    for slot, images in ((1, [picture(1)]), (0, []), (0, [picture(1)] * 3)):
        with pytest.raises(RuntimeError):
            engine.run(slot, images)
    engine.close()
    with pytest.raises(RuntimeError):
        engine.run(0, [picture(1)])


def test_the_clock_advances_only_on_request() -> None:
    clock = FakeClock(5.0)

    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.25)
    assert clock() == 5.25
