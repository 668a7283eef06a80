"""Open a sealed graph in ONNX Runtime, on the requested provider or not at all."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tidegate.service.errors import EngineUnavailable

log = logging.getLogger(__name__)

Provider = tuple[str, Mapping[str, str]]  # its name and its options


def runtime() -> str:
    """Return the runtime's name and version."""
    return f"onnxruntime {load_runtime().__version__}"


def load_runtime() -> Any:
    """Return the module onnxruntime. Raises EngineUnavailable if it does not load."""
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnavailable(
            f"ONNX Runtime failed to load ({error}): pip install 'tidegate[cpu]' or [gpu]."
        ) from error
    return onnxruntime


@cache
def preload() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, if they are installed."""
    ort = load_runtime()
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # it prints missing libraries
        ort.preload_dlls()
    if text := printed.getvalue().strip():
        log.info("%s", text)


def freeing(arena: str) -> Any:
    """Return the options of a run that afterwards frees what an arena does not use.

    `arena` is "cpu:0" or "gpu:INDEX".
    """
    options = load_runtime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    return options


def open_session(
    model: Path,
    engine: str,
    providers: Sequence[Provider],
    entries: Mapping[str, str],
    threads: int = 1,
) -> Any:
    """Return an InferenceSession whose first provider is the first of `providers`.

    `entries` are session config entries. Raises EngineUnavailable, with the name `engine`, if the
    provider is not installed, does not load, or rejects the model.
    """
    ort = load_runtime()
    first, _ = providers[0]
    if first not in ort.get_available_providers():
        raise EngineUnavailable(
            f"Engine {engine} needs ONNX Runtime's {first}, which this installation lacks (it has "
            f"{', '.join(ort.get_available_providers())}). The packages onnxruntime and "
            f"onnxruntime-gpu install to the same folder: pip uninstall onnxruntime, then install "
            f"'tidegate[gpu]'."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        session = ort.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EngineUnavailable(f"Engine {engine} cannot load {model}: {error}") from error
    # If a provider cannot load, ONNX Runtime only logs that and falls back to the CPU.
    if session.get_providers()[0] != first:
        raise EngineUnavailable(
            f"Engine {engine} is not available: {first} failed to load, because its libraries are "
            f"missing or of another version (see ONNX Runtime's log lines above)."
        )
    return session
