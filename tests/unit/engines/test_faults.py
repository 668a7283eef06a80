"""The classification of runtimes' errors, with texts that the runtimes really write."""

from __future__ import annotations

import pytest

from tidegate.service.engines.faults import CudaError, Fault, OutOfDeviceMemory, fault_of

ORT = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running "


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (CudaError("cudaMalloc", 2, "out of memory"), Fault.MEMORY),
        (CudaError("cudaEventSynchronize", 700, "an illegal memory access"), Fault.LOST),
        (CudaError("cudaEventSynchronize", 719, "unspecified launch failure"), Fault.LOST),
        (CudaError("cudaSetDevice", 46, "devices unavailable"), Fault.LOST),
        (CudaError("cudaMemcpyAsync", 1, "invalid argument"), Fault.BATCH),
        (OutOfDeviceMemory("no context"), Fault.MEMORY),
        (
            RuntimeError(
                ORT + "Conv node. Name:'c' Status Message: bfc_arena.cc:376 void* onnxruntime::"
                "BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for "
                "requested buffer of size 8388608000"
            ),
            Fault.MEMORY,
        ),
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0 ; hostname=h"), Fault.MEMORY),
        (RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"), Fault.MEMORY),
        (
            RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0"),
            Fault.LOST,
        ),
        (
            RuntimeError("Error Code 1: Cuda Runtime (unspecified launch failure)"),
            Fault.LOST,
        ),
        (RuntimeError("Error Code 2: OutOfMemory (Requested size was 1 bytes.)"), Fault.MEMORY),
        (ValueError("could not broadcast input array from shape (7,8,3)"), Fault.BATCH),
        (RuntimeError(ORT + "Reshape node. Name:'r' Status Message: bad shape"), Fault.BATCH),
    ],
)
def test_every_error_is_a_batch_memory_or_device_fault(error: Exception, fault: Fault) -> None:
    assert fault_of(error) is fault


# From the descriptions of cudaError_t: the process has to be started again, or the device is gone.
LOST = (3, 4, 46, 100, 101, 201, 214, 220, 226, 304, 700, 702, 709, 710, 714, 715, 716, 717, 718,
        719, 721, 802, 803, 805, 806, 807, 810, 999)  # fmt: skip


@pytest.mark.parametrize("code", LOST)
def test_a_lost_device_is_recognised_by_code_name_and_the_real_text(code: int) -> None:
    cudart = pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-bindings is for x86-64 Linux"
    )
    error = cudart.cudaError_t(code)
    name, text = (
        read(error)[1].decode() for read in (cudart.cudaGetErrorName, cudart.cudaGetErrorString)
    )

    for wording in (
        CudaError("cudaStreamSynchronize", code, text),
        RuntimeError(f"CUDA failure {code}: {text} ; GPU=0 ; hostname=h"),
        RuntimeError(f"{ORT}Conv node. Status Message: CUDA error {name}:{text}"),
        RuntimeError(f"Error Code 1: Cuda Runtime ({text})"),
    ):
        assert fault_of(wording) is Fault.LOST, wording
