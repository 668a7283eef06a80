"""The environment of a report: commit, command, machine, packages and loaded libraries."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from tidegate.service.files import sha256_of

_ROOT = Path(__file__).parents[3]
_LIBRARIES = re.compile(
    r"cuda|cublas|cudnn|cufft|nvrtc|nvinfer|tensorrt|onnxruntime", re.IGNORECASE
)
_PACKAGES = re.compile(
    r"^(nvidia|cuda|pycuda|tensorrt|onnx|torch|numpy|pillow|simplejpeg)", re.IGNORECASE
)
_ASK_S = 60


def before(command: Sequence[str]) -> dict[str, object]:
    """Return the environment before the measurements: commit, command, machine, packages."""
    return {
        "command": " ".join(command),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output_of("git", "rev-parse", "HEAD"),
        "dirty": _dirty(),
        "nvidia_smi": _output_of("nvidia-smi"),
        "tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE"),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": _packages(),
    }


def loaded_libraries(maps: Path = Path("/proc/self/maps")) -> dict[str, str]:
    """Return name → sha256 of the CUDA, ONNX Runtime and TensorRT libraries in this process."""
    files = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text().splitlines()}
    digests = {}
    for file in sorted(map(Path, files)):
        if ".so" in file.name and _LIBRARIES.search(file.name) and file.is_file():
            digests[file.name] = sha256_of(file)
    return digests


def _output_of(*command: str) -> str | None:
    """Return a program's output, or None if it is missing, fails or times out."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the commands are the ones above
            command, cwd=_ROOT, capture_output=True, text=True, timeout=_ASK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _dirty() -> bool | None:
    """Return whether tracked files were changed; None if git does not know."""
    changed = _output_of("git", "status", "--porcelain", "--untracked-files=no")
    return None if changed is None else bool(changed)


def _packages() -> dict[str, str]:
    # Leftovers of an interrupted installation have no name.
    named = [
        (found.metadata["Name"], found) for found in distributions() if "Name" in found.metadata
    ]
    return {
        name: found.version
        for name, found in sorted(named, key=lambda each: each[0].lower())
        if _PACKAGES.match(name)
    }


def _cpu() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()
