"""Hand-written fakes, which are themselves tested against the real interfaces.

`FakeEngine` passes the engine contract suite; `FakeClock` only moves when the test moves it;
`FakeNvml` behaves like nvidia-ml-py on a machine with GPUs.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType, SimpleNamespace

import numpy as np

from tidegate.service.engines.base import EngineInfo, TopUp
from tidegate.service.engines.faults import CudaError, OutOfDeviceMemory
from tidegate.service.types import Outputs, Pixels

SIDE = 4
CLASSES = 5
FEATURES = 3
_PATIENCE_S = 150.0  # longer than any test; a test that reaches it lacks a release


class FakeClock:
    """A clock that only moves when the test moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def picture(identity: int) -> Pixels:
    """Return pixels that encode `identity`, below 2²⁴, in their first pixel."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[0, 0] = identity >> 16, identity >> 8 & 255, identity & 255
    return Pixels(pixels)


def identity_of(pixels: Pixels) -> int:
    """Return the identity that `picture` encoded."""
    red, green, blue = (int(value) for value in pixels[0, 0])
    return red << 16 | green << 8 | blue


def identity_in(outputs: Outputs) -> int:
    """Return the identity of the image whose outputs, [1, …], these are."""
    return int(outputs.nearest_class[0])


class FakeEngine:
    """Answers with each image's identity, when the test allows it.

    `held`: every batch waits until `release` is called for it. `breaking`: a batch with one of
    these identities raises. `blind`: these images get NaN, as from an overflowing network.
    `waits_its_turn`: a batch is topped up once `give_turn` is called for it. `largest_batch`: a
    larger batch runs out of device memory. `losing`: a batch with one of these loses the device.
    """

    def __init__(
        self,
        *,
        slots: int = 1,
        max_batch_size: int = 8,
        held: bool = False,
        breaking: Collection[int] = (),
        blind: Collection[int] = (),
        devices: Sequence[int] = (),
        waits_its_turn: bool = False,
        largest_batch: int | None = None,
        losing: Collection[int] = (),
    ) -> None:
        self.batches: list[list[int]] = []  # identities, in the order the batches started
        self.closed = False
        self._slots = slots
        self._max_batch_size = max_batch_size
        self._held = held
        self._breaking = frozenset(breaking)
        self._blind = frozenset(blind)
        self._devices = tuple(devices) or (0,) * slots
        self._waits_its_turn = waits_its_turn
        self._largest_batch = largest_batch
        self._losing = frozenset(losing)
        self._lost = False
        self._turns = threading.Semaphore(0)
        self.slots_used: list[int] = []
        self._releases = threading.Semaphore(0)
        self._started = threading.Condition()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("fake", "fake 1", "none", "fp32", 1)

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def max_batch_size(self) -> int:
        return self._max_batch_size

    @property
    def seen(self) -> list[int]:
        """Return every identity that reached the engine, in order."""
        return [identity for batch in self.batches for identity in batch]

    @property
    def input_size(self) -> tuple[int, int]:
        return SIDE, SIDE

    def device_of(self, slot: int) -> int:
        return self._devices[slot]

    def parts_s(self, slot: int) -> Mapping[str, float]:
        return {}

    def run(self, slot: int, images: Sequence[Pixels], top_up: TopUp | None = None) -> Outputs:
        if self.closed or not 0 <= slot < self._slots or not images:
            raise RuntimeError("the contract of Engine.run is broken")
        if len(images) > self._max_batch_size:
            raise RuntimeError(f"{len(images)} images in a batch of {self._max_batch_size}")
        images = self._filled_up(images, top_up)
        identities = [identity_of(image) for image in images]
        with self._started:
            self.batches.append(identities)
            self.slots_used.append(slot)
            self._started.notify_all()
        self._fail_as_devices_do(identities)
        if self._held and not self._releases.acquire(timeout=_PATIENCE_S):
            raise RuntimeError("the test never released this batch")
        if broken := self._breaking.intersection(identities):
            raise RuntimeError(f"images {sorted(broken)} break the engine")
        return self._outputs(images, identities)

    def keep(self, largest: int) -> None:
        self._max_batch_size = largest

    def close(self) -> None:
        self.closed = True

    def release(self, batches: int = 1) -> None:
        """Let this many waiting batches finish."""
        self._releases.release(batches)

    def give_turn(self) -> None:
        """Let one waiting batch be topped up and start."""
        self._turns.release()

    def wait_for(self, batches: int) -> None:
        """Block until this many batches have started."""
        with self._started:
            if not self._started.wait_for(lambda: len(self.batches) >= batches, _PATIENCE_S):
                raise TimeoutError(f"only {len(self.batches)} of {batches} batches started")

    def _filled_up(self, images: Sequence[Pixels], top_up: TopUp | None) -> Sequence[Pixels]:
        if not self._waits_its_turn or top_up is None:
            return images
        if not self._turns.acquire(timeout=_PATIENCE_S):
            raise RuntimeError("the test never gave this batch its turn")
        return [*images, *top_up(self._max_batch_size - len(images))]

    def _fail_as_devices_do(self, identities: list[int]) -> None:
        if self._largest_batch is not None and len(identities) > self._largest_batch:
            raise OutOfDeviceMemory(f"no memory for {len(identities)}")
        self._lost = self._lost or bool(self._losing.intersection(identities))
        if self._lost:
            raise CudaError("cudaEventSynchronize", 700, "an illegal memory access")

    def _outputs(self, images: Sequence[Pixels], identities: list[int]) -> Outputs:
        brightness = np.array([image.mean() for image in images], np.float32)
        steps = np.arange(1, CLASSES + 1, dtype=np.float32)
        energy = -brightness
        energy[[identity in self._blind for identity in identities]] = np.nan
        return Outputs(
            logits=brightness[:, None] * steps,
            features=np.repeat(brightness[:, None], FEATURES, axis=1),
            scores=np.stack([energy, brightness**2], axis=1),
            nearest_class=np.array(identities, np.int64),
        )


class FakeNvml(ModuleType):
    """The functions of pynvml that the service calls, for identical GPUs."""

    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        """The base class of all errors, as in pynvml."""

    def __init__(self, gpus: int, *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.gpus, self.driver = gpus, driver
        self.lost: set[int] = set()

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetCount(self) -> int:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:
        if place in self.lost:
            raise self.NVMLError("GPU is lost")
        return place

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(used=10**9 * (gpu + 1), total=80 * 10**9)

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=40, memory=10)

    def nvmlDeviceGetClockInfo(self, gpu: int, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return 1980

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 55
