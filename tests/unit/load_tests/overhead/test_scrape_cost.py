"""What a scrape costs, with a fake server that is scraped."""

import asyncio
import os

import pytest

from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.overhead.scrape_cost import ScrapeCost, scrape_cost
from tests.unit.load_tests.fakes import OK, REQUEST, FakeServer, listening


def cost_of(fake: FakeServer) -> ScrapeCost:
    async def measure() -> ScrapeCost:
        async with listening(fake) as port:
            target = Target("127.0.0.1", port, "/classify")
            return await scrape_cost(target, os.getpid(), [REQUEST], images=3)

    return asyncio.run(measure())


def test_each_scrape_comes_after_some_images() -> None:
    fake = FakeServer([OK], page=b"metrics")

    cost = cost_of(fake)

    assert len(fake.bodies) == 3 * 20
    assert cost.cpu_ms > 0
    assert cost.duration_ms > 0


def test_a_scrape_without_an_answer_is_an_error() -> None:
    with pytest.raises(MeasurementFailed, match="a scrape was not answered"):
        cost_of(FakeServer([OK]))
