"""What computes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from tidegate.service.engines.config import EngineConfig
from tidegate.service.engines.open_gpu import GpuConfig
from tidegate.service.settings.profiles import Profile
from tidegate.service.settings.theme import Theme


class EngineSettings(Theme):
    """The engine, its devices, processes and threads."""

    profile: Profile | None = Field(
        default=None,
        description="kind of machine: edge makes the default of these and other settings one for a "
        "small machine; unset = none",
    )
    engine: Literal[
        "auto", "tensorrt", "tensorrt-rtx", "onnx-tensorrt", "onnx-cuda", "openvino", "onnx-cpu"
    ] = Field(
        default="auto",
        description="inference engine; auto = the first one that loads, in this order, but of the "
        "two on a CPU the faster one; startup fails if a named engine does not load",
    )
    openvino_device: str = Field(
        default="CPU",
        pattern=r"^(CPU|GPU(\.\d{1,2})?|NPU)$",
        description="what the engine `openvino` computes on: CPU, GPU, GPU.1 or NPU, all of Intel",
    )
    devices: str = Field(
        default="0",
        pattern=r"^\d{1,3}(,\d{1,3})*$",
        description="GPU numbers to run on, for example 0,1",
    )
    cuda_binding: Literal["cuda-bindings", "pycuda"] = Field(
        default="cuda-bindings", description="CUDA Python binding"
    )
    gpu_wait: Literal["block", "spin"] = Field(
        default="block",
        description="how a slot waits for its batch on a GPU: block frees the core, spin wakes up "
        "sooner and uses a core for each batch that runs",
    )
    gpu_arena_mb: int = Field(
        default=0,
        ge=0,
        description="bounds the device memory that `onnx-cuda` computes in, in MB; 0 = no bound. "
        "With a bound there are no CUDA graphs, whose memory is separate",
    )
    plan_cache: Path = Field(
        default=Path("~/.cache/tidegate/plans"),
        description="private folder for TensorRT plans, which are built once per GPU",
    )
    warm_up_cache: Path | None = Field(
        default=Path("~/.cache/tidegate/warm-up"),
        description="folder that keeps the warm-up results of this machine; a result is reused for "
        "a week if a short measurement confirms it",
    )
    warm_up_limit_s: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="time for the measurements at the start on a CPU; what cannot be measured in "
        "time is not used",
    )
    slots: int = Field(
        default=0, ge=0, le=256, description="concurrent batches; 0 = choose at warm-up"
    )
    threads_per_slot: int = Field(
        default=0, ge=0, le=256, description="engine threads per slot; 0 = choose at warm-up"
    )
    max_batch_size: int = Field(
        default=0, ge=0, le=1024, description="maximum images per batch; 0 = choose at warm-up"
    )
    engine_timeout_s: float = Field(
        default=30, gt=0, le=3600, description="the process exits if a batch takes longer"
    )
    decode_threads: int = Field(
        default=0,
        ge=0,
        le=256,
        description="dedicated decoder threads; 0 = decode on engine threads "
        "(CPU with one thread per slot) or one per core",
    )
    large_decoders: int = Field(
        default=0,
        ge=0,
        le=64,
        description="processes that decode large images (Linux, without front ends); 0 = half as "
        "many as cores, from 1 to 4",
    )
    front_ends: int = Field(
        default=0,
        ge=-1,
        le=256,
        description="processes that answer HTTP and decode, around one that runs the engine; "
        "0 = one per core with a GPU and more than 4 cores, otherwise none; -1 = none: one process "
        "does everything",
    )

    @field_validator("devices")
    @classmethod
    def _each_device_once(cls, value: str) -> str:
        if len(set(map(int, value.split(",")))) <= value.count(","):
            raise ValueError("a device is listed twice")
        return value

    def engine_config(self) -> EngineConfig:
        """Return the engine to open, and the devices to run it on."""
        return EngineConfig(
            self.engine,
            self.slots,
            self.threads_per_slot,
            self.max_batch_size,
            GpuConfig(
                tuple(int(device) for device in self.devices.split(",")),
                self.cuda_binding,
                self.plan_cache,
                self.gpu_arena_mb * 10**6,
                self.gpu_wait == "spin",
            ),
            self.openvino_device,
            None if self.warm_up_cache is None else _home(self.warm_up_cache),
            self.warm_up_limit_s,
        )


def _home(path: Path) -> Path | None:
    """Return a path with "~" replaced; None if there is no home directory."""
    try:
        return path.expanduser()
    except RuntimeError:
        return None
