"""The CUDA interface on a fake of PyCUDA's driver module: one context per thread, all released.

As in PyCUDA, a thread that ends with a context aborts the process.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tidegate.service.engines.faults import CudaError, Fault, fault_of
from tidegate.service.errors import EngineUnavailable


class FakeDriver(ModuleType):
    """The part of pycuda.driver that is used."""

    class Error(Exception):
        """The base class of PyCUDA's errors."""

    class LogicError(Error):
        """The class of most error codes."""

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.stacks: dict[int, list[Any]] = {}
        self.failing = ""
        self.gpus = 2
        self.Context = SimpleNamespace(pop=self._pop)
        self.Device = device_class(self)
        self.event_flags = SimpleNamespace(DEFAULT=0, BLOCKING_SYNC=1)

    def _pop(self) -> None:
        self.stacks[threading.get_ident()].pop()

    def init(self) -> None:
        if not self.gpus:
            raise self.LogicError("cuInit failed: no CUDA-capable device is detected")

    def top(self) -> Any:
        stack = self.stacks.get(threading.get_ident(), [])
        return stack[-1] if stack else None

    def mem_get_info(self) -> tuple[int, int]:
        if self.failing:
            raise self.LogicError(f"cuMemGetInfo failed: {self.failing}")
        return self.top().index, 10

    def pagelocked_empty(self, size: int, dtype: Any) -> Any:
        return np.empty(size, dtype)

    def get_version(self) -> tuple[int, int, int]:
        return 13, 0, 0

    def get_driver_version(self) -> int:
        return 13020


class FakeContext:
    """A device's primary context, retained."""

    def __init__(self, driver: FakeDriver, index: int) -> None:
        self.index, self.retained = index, True
        self._driver = driver

    def push(self) -> None:
        self._driver.stacks.setdefault(threading.get_ident(), []).append(self)

    def detach(self) -> None:
        assert self._driver.top() is self
        self.retained = False


def device_class(driver: FakeDriver) -> type:
    """Return the class Device of a driver."""

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        @staticmethod
        def count() -> int:
            return driver.gpus

        def name(self) -> str:
            return f"Fake GPU {self.index}"

        def compute_capability(self) -> tuple[int, int]:
            return 9, 0

        def retain_primary_context(self) -> FakeContext:
            return FakeContext(driver, self.index)

    return Device


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    fake, package = FakeDriver(), ModuleType("pycuda")
    package.driver = fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", fake)
    yield fake
    importlib.import_module("tidegate.service.engines.cuda.pycuda")._leave()
    del sys.modules["tidegate.service.engines.cuda.pycuda"]
    assert not any(fake.stacks.values()), "a thread ended with a context: PyCUDA would abort"


def seam(monkeypatch: pytest.MonkeyPatch, codes: dict[str, int] | None = None) -> Any:
    module = importlib.import_module("tidegate.service.engines.cuda.pycuda")
    monkeypatch.setattr(module, "_codes", lambda: codes or {})  # the real one calls the driver
    return module.PyCuda()


def test_a_thread_stays_on_its_last_device(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = seam(monkeypatch)
    first, second = cuda.device(0), cuda.device(1)

    for device, index in ((first, 0), (second, 1), (first, 0), (first, 0)):
        device.use()
        assert device.memory() == (index, 10)
    assert [len(stack) for stack in driver.stacks.values()] == [1]


def test_a_thread_that_ends_leaves_no_context_behind(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = seam(monkeypatch).device(0)

    with ThreadPoolExecutor(3) as pool:
        assert (
            list(pool.map(lambda _: (device.use(), device.memory())[1], range(6))) == [(0, 10)] * 6
        )


def test_closing_releases_the_primary_context(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = seam(monkeypatch).device(0)
    context = driver.top()

    device.close()

    assert not context.retained
    assert driver.top() is None


@pytest.mark.parametrize(
    ("text", "code", "fault"),
    [
        ("an illegal memory access was encountered", 700, Fault.LOST),
        ("out of memory", 2, Fault.MEMORY),
        ("invalid argument", 1, Fault.BATCH),
        ("something new", 1, Fault.BATCH),
    ],
)
def test_an_error_has_the_code_that_matches_its_text(
    text: str, code: int, fault: Fault, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"an illegal memory access was encountered": 700, "out of memory": 2}
    device = seam(monkeypatch, known).device(0)
    driver.failing = text

    with pytest.raises(CudaError, match=rf"cuMemGetInfo: CUDA error {code}, {text}") as caught:
        device.memory()
    assert fault_of(caught.value) is fault


def test_a_missing_gpu_raises_a_clear_error(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = seam(monkeypatch)
    assert (cuda.version, cuda.device_count()) == ("13.0 (driver 13.2)", 2)
    driver.gpus = 0

    with pytest.raises(EngineUnavailable, match=r"no GPU to use: cuInit: .* no CUDA-capable"):
        cuda.device_count()
