"""Classify a runtime's errors: a bad batch, too large a batch, or a lost device."""

from __future__ import annotations

import re
from enum import Enum


class Fault(Enum):
    """Why a batch failed, which decides what the scheduler does next."""

    BATCH = "batch"  # split it until the image that causes the failure is isolated
    MEMORY = "memory"  # the device lacks memory for a batch of this size
    LOST = "lost"  # the device is unusable until the process restarts


class CudaError(Exception):
    """A CUDA call failed."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: CUDA error {code}, {text}")
        self.code = code


class OutOfDeviceMemory(Exception):
    """A runtime could not allocate device memory."""


# From NVIDIA's list of cudaError_t, whose codes the driver's CUresult shares. After one of _LOST
# (sticky errors) every further call fails until the process ends.
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
# ONNX Runtime and TensorRT expose no error code, only text.
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
    """Return the kind of an engine's error; BATCH if it is unknown."""
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
