"""Save and load a monitor's state. The only module in this package that uses the disk."""

from __future__ import annotations

import errno
import io
import os
import re
import time
from pathlib import Path

import numpy as np

from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.state_arrays import State
from tidegate.service.errors import SettingsInvalid
from tidegate.service.files import write_atomically
from tidegate.service.npz import read_npz

FORMAT = "tidegate-drift/3"
NONE_YET = "there is no state file"
OTHER_BUNDLE = "it belongs to another bundle"
OLDER = "it was written by an older version, whose monitors kept other numbers"
_OLDER_FORMATS = {"tidegate-drift/1", "tidegate-drift/2"}
MAX_UNUSABLE_FILES = 3  # that are kept; older ones are deleted
_OVERHEAD_BYTES = 1 << 20  # of an archive: headers, names, directory
_SUFFIX = r"\.(?:damaged|other-bundle|older)-(\d{8}T\d{6}Z)-(\d{1,6})"
_FULL = {errno.ENOSPC, errno.EDQUOT}


def check_path(path: Path) -> None:
    """Raise SettingsInvalid if a state can never be saved to `path`.

    A full disk does not raise: it may have space later, and the service can answer meanwhile.
    """
    wrong = ""
    try:
        if path.exists() and not path.is_file():
            wrong = "it is not a file"
        else:
            trial = path.with_name(f".{path.name}.{os.getpid()}")
            trial.touch()
            trial.unlink()
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) not in _FULL:
            wrong = f"{getattr(error, 'strerror', None) or error} ({path.parent})"
    if wrong:
        raise SettingsInvalid(
            f"TIDEGATE_DRIFT_STATE={path}: cannot save the state of the drift monitors: {wrong}."
        )


def save(path: Path, state: State, digest: str) -> None:
    """Write a state atomically; `digest` is the bundle's. Raises OSError."""
    content = io.BytesIO()
    np.savez(content, format=FORMAT, digest=digest, **state)  # type: ignore[arg-type]  # numpy's stub mixes up **kwds
    write_atomically(path, content.getvalue())


def load(path: Path, monitor: Monitor, digest: str) -> str:
    """Restore the monitor from a file. Return "", or the reason why it was not restored.

    A monitor that is not restored is unchanged. Reads a limited number of bytes.
    """
    most = 2 * sum(array.nbytes for array in monitor.state().values()) + _OVERHEAD_BYTES
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            return f"it cannot be read: it is larger than {most:,} bytes"
        state = read_npz(content, most_bytes=most)
        if str(state["format"]) in _OLDER_FORMATS:
            return OLDER
        if str(state["format"]) != FORMAT:
            return f"its format is not {FORMAT}"
        if str(state["digest"]) != digest:
            return OTHER_BUNDLE
        monitor.restore(state)
    except FileNotFoundError:
        return NONE_YET
    except KeyError as error:
        return f"it cannot be read: it lacks {error}"
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    return ""


def rename_unusable(path: Path, why: str) -> Path:
    """Rename a file that `load` could not use, and return its new path. Raises OSError.

    Only the newest MAX_UNUSABLE_FILES such files are kept.
    """
    kind = {OTHER_BUNDLE: "other-bundle", OLDER: "older"}.get(why, "damaged")
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = _unusable_files(path)
    number = max((number for when, number, _ in kept if when == stamp), default=0) + 1
    renamed = path.with_name(f"{path.name}.{kind}-{stamp}-{number}")
    path.rename(renamed)
    for *_, other in kept[: 1 - MAX_UNUSABLE_FILES]:
        other.unlink(missing_ok=True)
    return renamed


def _unusable_files(path: Path) -> list[tuple[str, int, Path]]:
    """Return (time, number within that second, path) of each renamed file."""
    pattern = re.compile(re.escape(path.name) + _SUFFIX)
    found = [(pattern.fullmatch(other.name), other) for other in path.parent.iterdir()]
    return sorted((match[1], int(match[2]), other) for match, other in found if match)
