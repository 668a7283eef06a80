"""Earlier choices of warm-up on this machine, kept in a folder with one file per key.

A choice is used again only for the same graph, runtime, settings and CPU, and only if a short
measurement agrees with the kept one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from tidegate.service.files import read_small, write_atomically

log = logging.getLogger(__name__)

_MAX_BYTES = 65_536  # of a kept file
_KEPT_S = 7 * 86_400.0  # limited, because a busy machine may have caused a bad choice
_MOST_FASTER = 1.25  # a machine that is faster by more was busy when the choice was made
_MOST_SLOWER = 4.0


@dataclass(frozen=True, slots=True)
class Key:
    """Everything that a choice depends on."""

    model_sha256: str
    precision: str
    runtime: str  # with its version; of all engines that were compared
    settings: str
    cores: int
    cpu: str

    @property
    def digest(self) -> str:
        """Return the name of the key's file."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class Choice(BaseModel):
    """Engine, slots, threads and batch sizes, with the seconds that were measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str = "onnx-cpu"
    slots: int = Field(ge=1, le=4096)
    threads_per_slot: int = Field(ge=1, le=4096)
    latency_s: dict[int, float] = Field(min_length=1)  # batch size → seconds, all slots busy
    single_image_s: float | None = Field(default=None, gt=0)  # on all cores, if that is used
    unmeasured: tuple[str, ...] = ()  # what there was no time for

    def agrees_with(self, latency_s: Mapping[int, float]) -> bool:
        """Return whether new durations are close enough for the choice to hold.

        A busy machine is slower and measures badly, so a choice from a quieter moment holds; one
        from a busier moment does not.
        """
        return all(
            kept_s / _MOST_FASTER <= latency_s[size] <= kept_s * _MOST_SLOWER
            for size, kept_s in self.latency_s.items()
        )


class KeptChoices:
    """The folder. If a file cannot be read or written, warm-up measures again."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, key: Key) -> Choice | None:
        """Return the choice for `key`, if there is one."""
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        try:
            if time.time() - path.stat().st_mtime > _KEPT_S:
                return None
            return Choice.model_validate_json(read_small(path, _MAX_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.info("ignoring the kept warm-up choice %s: %s", path, error)
            return None

    def put(self, key: Key, choice: Choice) -> None:
        """Keep the choice for `key`."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path(self._folder, key), choice.model_dump_json().encode())
        except OSError as error:
            log.info("cannot keep the warm-up choice in %s: %s", self._folder, error)

    @staticmethod
    def _path(folder: Path, key: Key) -> Path:
        return folder / f"{key.digest}.json"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the CPU's name and a digest of its features; its architecture if they are unknown."""
    try:
        lines = cpuinfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return os.uname().machine if hasattr(os, "uname") else ""
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {name.strip(): value.strip() for name, value in fields.items()}
    flags = values.get("flags") or values.get("Features", "")  # of arm64
    features = hashlib.sha256(flags.encode()).hexdigest()[:16]
    part = " ".join(values.get(f"CPU {name}", "") for name in ("implementer", "part", "revision"))
    return f"{values.get('model name', part)} {features}"
