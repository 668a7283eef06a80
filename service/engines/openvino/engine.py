"""OpenVINO as an engine: each slot has a compiled copy of the network for every batch size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.engines.openvino.program import Program, Request
from tidegate.service.engines.openvino.runtime import device_name, runtime
from tidegate.service.errors import BundleRefused
from tidegate.service.types import OUTPUT_NAMES, Outputs, Pixels


class OpenVinoEngine:
    """A sealed graph on a CPU, or on another device of OpenVINO. `run` never calls `top_up`.

    A network of a fixed shape is faster than one of any shape, and does not plan again whenever
    the batch size changes. A batch of another size runs as several: three images as two and one.
    """

    def __init__(
        self,
        model: Path,
        *,
        slots: int = 1,
        threads_per_slot: int = 1,
        buckets: Sequence[int] = (1,),
        precision: str = "fp32",
        device: str = "CPU",
    ) -> None:
        """Load `model`, whose backbone was sealed in `precision`.

        Raises EngineUnavailable if it does not load or the device cannot compute in `precision`,
        and BundleRefused if it is not a sealed graph.
        """
        self._program = Program(model, precision, device, threads_per_slot)
        if missing := [name for name in OUTPUT_NAMES if name not in self._program.outputs]:
            raise BundleRefused(f"{model} has no output {missing[0]}.")
        self._buckets = tuple(sorted({1, *buckets}))
        self._requests: list[dict[int, Request]] = [{} for _ in range(slots)]
        first = self._request(0, 1)
        self._info = EngineInfo(
            name="openvino",
            runtime=runtime(),
            device="cpu" if device == "CPU" else f"{device} {device_name(device)}",
            precision=precision,
            threads_per_slot=threads_per_slot,
            instructions=first.instructions if device == "CPU" else "",
        )

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def slots(self) -> int:
        return len(self._requests)

    @property
    def max_batch_size(self) -> int:
        return self._buckets[-1]

    @property
    def input_size(self) -> tuple[int, int]:
        """Return (height, width) of the graph's input."""
        return self._program.input_size

    def device_of(self, slot: int) -> int:
        return 0

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        parts: list[Outputs] = []
        for start, size in _parts(len(images), self._buckets):
            request = self._request(slot, size)
            for row, image in enumerate(images[start : start + size]):
                request.pixels[row] = image
            found = request.run()
            # Copied, because the next run writes to the same memory.
            parts.append(Outputs(*(found[name].copy() for name in OUTPUT_NAMES)))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def parts_s(self, slot: int) -> Mapping[str, float]:
        return {}

    def keep(self, largest: int) -> None:
        self._buckets = tuple(bucket for bucket in self._buckets if bucket <= largest)
        for requests in self._requests:
            for size in [size for size in requests if size > largest]:
                del requests[size]

    def close(self) -> None:
        for requests in self._requests:
            requests.clear()

    def _request(self, slot: int, size: int) -> Request:
        """Return the slot's request for batches of `size`; compile it on the first call."""
        requests = self._requests[slot]
        if size not in requests:
            requests[size] = self._program.request(size)
        return requests[size]


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return Outputs(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Outputs)
        )
    )


def _parts(images: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (start, size) of the batches that run for `images`; `sizes` ascend from 1."""
    start = 0
    while start < images:
        size = max(size for size in sizes if size <= images - start)
        yield start, size
        start += size
