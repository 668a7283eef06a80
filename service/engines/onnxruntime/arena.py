"""One arena of device memory for all sessions of a device, instead of one for each session."""

from __future__ import annotations

from functools import cache

from tidegate.service.engines.onnxruntime.session import load_runtime, preload
from tidegate.service.errors import EngineUnavailable

USE_SHARED = {"session.use_env_allocators": "1"}  # the session's config entry
_ERROR = 3  # of ONNX Runtime's levels


@cache  # a device has one for as long as the process lives
def share_arena(device: int, most_bytes: int = 0) -> None:
    """Create the arena of a device, which sessions with the entries USE_SHARED allocate from.

    `most_bytes` bounds it; 0 means no bound. Raises EngineUnavailable if CUDA does not load.
    """
    preload()
    ort = load_runtime()
    ort.set_default_logger_severity(_ERROR)  # it warns of a plugin that is not needed
    memory = ort.OrtMemoryInfo(
        "Cuda", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, device, ort.OrtMemType.DEFAULT
    )
    # 1: grow by what is requested, since the default doubles the arena.
    arena = ort.OrtArenaCfg({"arena_extend_strategy": 1, "max_mem": most_bytes})
    try:
        ort.create_and_register_allocator_v2(
            "CUDAExecutionProvider", memory, {"device_id": str(device)}, arena
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EngineUnavailable(
            f"ONNX Runtime has no memory arena on device {device}: {error}"
        ) from error
