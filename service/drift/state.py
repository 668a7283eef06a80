"""A monitor's state in a file: the one module here that touches a disk."""

from __future__ import annotations

import io
import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from service.drift.monitor import Monitor, State

FORMAT = "tidegate-drift/2"


def save(path: Path, state: State, digest: str) -> None:
    """Write a state, whole or not at all; `digest` is the bundle's. Raises OSError."""
    content = io.BytesIO()
    np.savez(content, format=FORMAT, digest=digest, **state)  # type: ignore[arg-type]  # numpy's stub mixes up **kwds
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: Path, monitor: Monitor, digest: str) -> str:
    """Restore the monitor from a file and return ""; or say why it starts anew."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as state:
            if str(state["format"]) != FORMAT:
                return f"it is not of format {FORMAT}"
            if str(state["digest"]) != digest:
                return "it is of another bundle"
            monitor.restore(state)
    except FileNotFoundError:
        return "there is none yet"
    except (OSError, BadZipFile, EOFError, KeyError, ValueError) as error:
        return f"it cannot be read: {error}"
    return ""
