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


# NVIDIA's cudaError_t, whose codes the driver's CUresult shares, with its name and its text. After
# one of _LOST every further call fails until the process ends. MPS shares a GPU among processes.
_MEMORY = 2
_LOST = {
    3: ("InitializationError", "initialization error"),
    4: ("CudartUnloading", "driver shutting down"),
    46: ("DevicesUnavailable", "CUDA-capable device(s) is/are busy or unavailable"),
    100: ("NoDevice", "no CUDA-capable device is detected"),
    101: ("InvalidDevice", "invalid device ordinal"),
    201: ("DeviceUninitialized", "invalid device context"),
    214: ("ECCUncorrectable", "uncorrectable ECC error encountered"),
    220: ("NvlinkUncorrectable", "uncorrectable NVLink error detected during the execution"),
    226: ("Contained", "Invalid access of peer GPU memory over nvlink or a hardware error"),
    304: ("OperatingSystem", "OS call failed or operation not supported on this OS"),
    700: ("IllegalAddress", "an illegal memory access was encountered"),
    702: ("LaunchTimeout", "the launch timed out and was terminated"),
    709: ("ContextIsDestroyed", "context is destroyed"),
    710: ("Assert", "device-side assert triggered"),
    714: ("HardwareStackError", "hardware stack error"),
    715: ("IllegalInstruction", "an illegal instruction was encountered"),
    716: ("MisalignedAddress", "misaligned address"),
    717: ("InvalidAddressSpace", "operation not supported on global/shared address space"),
    718: ("InvalidPc", "invalid program counter"),
    719: ("LaunchFailure", "unspecified launch failure"),
    721: ("TensorMemoryLeak", "tensor memory not completely freed"),
    802: ("SystemNotReady", "system not yet initialized"),
    803: (
        "SystemDriverMismatch",
        "system has unsupported display driver / cuda driver combination",
    ),
    805: (
        "MpsConnectionFailed",
        "MPS client failed to connect to the MPS control daemon or the MPS server",
    ),
    806: (
        "MpsRpcFailure",
        "the remote procedural call between the MPS server and the MPS client failed",
    ),
    807: ("MpsServerNotReady", "MPS server is not ready to accept new MPS client requests"),
    810: ("MpsClientTerminated", "the MPS client has been terminated by the server"),
    999: ("Unknown", "unknown error"),
}
_VAGUE = frozenset({3, 999})  # others use the same text
# ONNX Runtime and TensorRT expose no code. They write the code, the name, or only the text.
_CODE = re.compile(r"CUDA (?:failure|error)\D{0,3}(\d+)\b", re.IGNORECASE)
_LOST_NAME = re.compile(rf"cudaError(?:{'|'.join(name for name, _ in _LOST.values())})\b")
_LOST_TEXT = re.compile(
    "|".join(re.escape(text) for code, (_, text) in _LOST.items() if code not in _VAGUE),
    re.IGNORECASE,
)
_LOST_VAGUE = re.compile(r"Cuda Runtime \((?:initialization|unknown) error\)")
_MEMORY_TEXT = re.compile(
    r"out of memory|failed to allocate memory|_ALLOC_FAILED|DEVICE_ALLOCATION_FAILED"
    r"|smaller than requested bytes|OutOfMemory|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_LOST_PATTERNS = (_LOST_NAME, _LOST_TEXT, _LOST_VAGUE)


def fault_of(error: BaseException) -> Fault:
    """Return the kind of an engine's error; BATCH if it is unknown."""
    if isinstance(error, OutOfDeviceMemory):
        return Fault.MEMORY
    text = str(error)
    match = None if isinstance(error, CudaError) else _CODE.search(text)
    code = error.code if isinstance(error, CudaError) else int(match.group(1)) if match else None
    if code is not None:
        return Fault.MEMORY if code == _MEMORY else Fault.LOST if code in _LOST else Fault.BATCH
    if any(pattern.search(text) for pattern in _LOST_PATTERNS):
        return Fault.LOST
    return Fault.MEMORY if _MEMORY_TEXT.search(text) else Fault.BATCH
