"""Open a binding to CUDA, and the devices of it that are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tidegate.service.engines.cuda.base import Cuda, Device
from tidegate.service.errors import EngineUnavailable


def open_cuda(binding: str) -> Cuda:
    """Return the binding asked for. Raises EngineUnavailable where it is not installed.

    Devices are numbered as NVML's are, by PCI bus, unless CUDA_DEVICE_ORDER says otherwise.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # read when CUDA starts
    module = {"cuda-bindings": "bindings", "pycuda": "pycuda"}[binding]
    extra = {"cuda-bindings": "gpu", "pycuda": "pycuda"}[binding]
    try:
        if module == "bindings":
            from tidegate.service.engines.cuda.bindings import CudaBindings

            return CudaBindings()
        from tidegate.service.engines.cuda.pycuda import PyCuda

        return PyCuda()
    except ImportError as error:
        raise EngineUnavailable(
            f"{binding} does not load ({error}): it needs NVIDIA's driver, and "
            f"pip install 'tidegate[{extra}]'."
        ) from error


def open_devices(cuda: Cuda, wanted: Sequence[int]) -> list[Device]:
    """Return the devices asked for. Raises EngineUnavailable for one that is not there."""
    count = cuda.device_count()
    if missing := [index for index in wanted if index >= count]:
        raise EngineUnavailable(
            f"TIDEGATE_DEVICES names {missing[0]}, but this process sees {count} GPU(s), "
            f"numbered from 0."
        )
    return [cuda.device(index) for index in wanted]
