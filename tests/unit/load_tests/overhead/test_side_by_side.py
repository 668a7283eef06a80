"""Two servers get the same images at the same time."""

import asyncio
import os
from collections import Counter

import pytest

from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.overhead.side_by_side import Side, Window, side_by_side
from tests.unit.load_tests.fakes import OK, REQUEST, FakeServer, listening

REQUESTS = [REQUEST.replace(b"image", b"img%02d" % number) for number in range(5)]


def measure(*fakes: FakeServer) -> tuple[Window, Window]:
    async def run() -> tuple[Window, Window]:
        async with listening(fakes[0]) as first, listening(fakes[1]) as second:
            sides = [
                Side(Target("127.0.0.1", port, "/classify"), os.getpid(), REQUESTS)
                for port in (first, second)
            ]
            return await side_by_side((sides[0], sides[1]), 3, 0.2, seed=1)

    return asyncio.run(run())


@pytest.mark.lengthy
def test_both_servers_get_the_same_images() -> None:
    first, second = FakeServer([OK]), FakeServer([OK])

    windows = measure(first, second)

    assert len(first.bodies) >= 3
    assert Counter(first.bodies) == Counter(second.bodies)
    assert [len(window.outcomes) for window in windows] == [len(first.bodies)] * 2
    assert all(window.cpu_ms > 0 for window in windows)


def test_a_server_that_answers_nothing_is_an_error() -> None:
    with pytest.raises(MeasurementFailed, match="a server answered nothing"):
        measure(FakeServer([OK]), FakeServer([b""]))
