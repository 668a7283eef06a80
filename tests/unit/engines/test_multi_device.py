"""Several devices as one engine."""

from __future__ import annotations

from dataclasses import replace

from tests.fakes import FakeEngine, identity_in, picture
from tidegate.service.engines.base import EngineInfo
from tidegate.service.engines.multi_device import Fleet


class Numbered(FakeEngine):
    """One device of several."""

    def __init__(self, device: int, slots: int, max_batch_size: int = 8) -> None:
        super().__init__(slots=slots, max_batch_size=max_batch_size)
        self.device = device

    @property
    def info(self) -> EngineInfo:
        return replace(super().info, device=f"cuda:{self.device}")


def test_slots_are_numbered_across_devices() -> None:
    first, second = Numbered(0, slots=2), Numbered(1, slots=1, max_batch_size=4)
    fleet = Fleet([first, second])

    assert fleet.slots == 3
    assert [fleet.device_of(slot) for slot in range(3)] == [0, 0, 1]
    assert fleet.max_batch_size == 4
    assert fleet.info.device == "cuda:0, cuda:1"

    assert identity_in(fleet.run(2, [picture(7)])) == 7
    assert (first.batches, second.batches) == ([], [[7]])
    assert second.slots_used == [0]


def test_closing_closes_every_device() -> None:
    engines = [Numbered(device, slots=1) for device in range(2)]

    Fleet(engines).close()

    assert all(engine.closed for engine in engines)
