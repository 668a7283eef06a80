"""Engines on several devices as one engine, with the slots of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tidegate.service.engines.base import Engine, EngineInfo, TopUp
from tidegate.service.types import Outputs, Pixels


class Fleet:
    """Engines that run the same graph. The scheduler picks the least loaded device."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """Join `engines`: one per device, with equal slots and batch sizes."""
        self.engines = tuple(engines)
        self._slots = [
            (device, slot) for device, engine in enumerate(engines) for slot in range(engine.slots)
        ]

    @property
    def info(self) -> EngineInfo:
        devices = ", ".join(engine.info.device for engine in self.engines)
        return replace(self.engines[0].info, device=devices)

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def max_batch_size(self) -> int:
        return min(engine.max_batch_size for engine in self.engines)

    @property
    def input_size(self) -> tuple[int, int]:
        return self.engines[0].input_size

    def device_of(self, slot: int) -> int:
        return self._slots[slot][0]

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        device, own = self._slots[slot]
        return self.engines[device].run(own, images, top_up)

    def parts_s(self, slot: int) -> Mapping[str, float]:
        device, own = self._slots[slot]
        return self.engines[device].parts_s(own)

    def keep(self, largest: int) -> None:
        for engine in self.engines:
            engine.keep(largest)

    def close(self) -> None:
        for engine in self.engines:
            engine.close()
