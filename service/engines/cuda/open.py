"""Open a CUDA binding and the requested devices."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tidegate.service.engines.cuda.base import Cuda, Device
from tidegate.service.errors import EngineUnavailable


def open_cuda(binding: str, *, spin: bool = False) -> Cuda:
    """Return the binding named `binding`. Raises EngineUnavailable if it does not load.

    `spin`: waiting for an event uses the CPU, instead of blocking until the driver wakes it.
    Devices are numbered by PCI bus, as in NVML, unless CUDA_DEVICE_ORDER is set.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # read when CUDA starts
    module = {"cuda-bindings": "bindings", "pycuda": "pycuda"}[binding]
    extra = {"cuda-bindings": "gpu", "pycuda": "pycuda"}[binding]
    try:
        if module == "bindings":
            from tidegate.service.engines.cuda.bindings import CudaBindings

            return CudaBindings(spin=spin)
        from tidegate.service.engines.cuda.pycuda import PyCuda

        return PyCuda(spin=spin)
    except ImportError as error:
        raise EngineUnavailable(
            f"{binding} failed to load ({error}). It needs NVIDIA's driver and "
            f"pip install 'tidegate[{extra}]'."
        ) from error


def open_devices(cuda: Cuda, wanted: Sequence[int]) -> list[Device]:
    """Return the devices with the indices `wanted`. Raises EngineUnavailable if one is missing."""
    count = cuda.device_count()
    if missing := [index for index in wanted if index >= count]:
        raise EngineUnavailable(
            f"TIDEGATE_DEVICES contains {missing[0]}, but only {count} GPU(s) are visible, "
            f"numbered from 0."
        )
    return [cuda.device(index) for index in wanted]
