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
        46,  # devices unavailable
        100,  # no device
        101,  # invalid device
        214,  # uncorrectable ECC error
        220,  # NVLink error
        226,  # contained error
        700,  # illegal address
        702,  # launch timeout
        709,  # context destroyed
        710,  # assertion
        714,  # hardware stack error
        715,  # illegal instruction
        716,  # misaligned address
        717,  # invalid address space
        718,  # invalid program counter
        719,  # launch failure
        721,  # tensor memory leak
        999,  # unknown error
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
