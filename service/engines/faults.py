"""What a runtime's error means for the service: this batch, its size, or the whole device."""

from __future__ import annotations

import re
from enum import Enum


class Fault(Enum):
    """What to do about a batch that failed."""

    BATCH = "batch"  # take it apart until the image that breaks it stands alone
    MEMORY = "memory"  # the device has no room for so large a batch
    LOST = "lost"  # nothing will run on this device again in this process


class CudaError(Exception):
    """A CUDA call that did not succeed."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: CUDA error {code}, {text}")
        self.code = code


class OutOfDeviceMemory(Exception):
    """A runtime could not have the device memory it asked for."""


# By NVIDIA's list of cudaError_t, which the driver's CUresult shares. After the sticky ones every
# further call fails until the process ends.
_MEMORY = frozenset({2})
_LOST = frozenset(
    {
        *(46, 100, 101),  # devices unavailable, no device, invalid device
        *(214, 220, 226),  # uncorrectable ECC, NVLink, contained error
        *(700, 702, 709, 710),  # illegal address, launch timeout, context destroyed, assertion
        *(714, 715, 716, 717, 718, 719),  # stack, instruction, address, space, pc, launch failure
        *(721, 999),  # tensor memory leak, unknown
    }
)
# What ONNX Runtime and TensorRT make of them has no code to ask for, only text.
_CODE = re.compile(r"CUDA (?:failure|error)\D{0,3}(\d+)\b", re.IGNORECASE)
_MEMORY_TEXT = re.compile(
    r"out of memory|failed to allocate memory|_ALLOC_FAILED|DEVICE_ALLOCATION_FAILED"
    r"|smaller than requested bytes|OutOfMemory",
    re.IGNORECASE,
)
_LOST_TEXT = re.compile(
    r"illegal (?:memory access|instruction)|misaligned address|unspecified launch failure"
    r"|device-side assert|uncorrectable|launch timed out|hardware stack error"
    r"|context is destroyed|invalid program counter|no CUDA-capable device",
    re.IGNORECASE,
)


def fault_of(error: BaseException) -> Fault:
    """Return what an engine's error means; what is not known concerns the batch alone."""
    if isinstance(error, OutOfDeviceMemory):
        return Fault.MEMORY
    text = str(error)
    match = None if isinstance(error, CudaError) else _CODE.search(text)
    code = error.code if isinstance(error, CudaError) else int(match.group(1)) if match else None
    if code is not None:
        return Fault.MEMORY if code in _MEMORY else Fault.LOST if code in _LOST else Fault.BATCH
    if _LOST_TEXT.search(text):
        return Fault.LOST
    return Fault.MEMORY if _MEMORY_TEXT.search(text) else Fault.BATCH
