"""The folder of a training: a file to resume from, the best weights so far, and the result.

Every file is complete or absent. `resume.pt` names the file of the best weights, which is written
before it, so the two always agree.
"""

from __future__ import annotations

import fcntl
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training_record import TrainingRecord
from tidegate.service.files import write_atomically

BOARD = "tensorboard"  # folder of its files
_RESUME, _MODEL, _RECORD, _LOCK = "resume.pt", "model", "training.json", ".lock"
_BEST = "best-{stage}-{epoch}.safetensors"
_RECORDS = TypeAdapter(TrainingRecord)


class RunFolder:
    """Reads and writes the files of one training, which `identity` describes.

    Raises BuildRefused if the folder has a training of another identity.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(identity))
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock. Raises BuildRefused if another process holds it.

        Half-written files of a killed process are removed. The processes that load images do not
        inherit a lock of this kind, so it ends with this process even if they outlive it.
        """
        with (self.folder / _LOCK).open("w") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                raise BuildRefused(
                    f"Another process trains in {self.folder}: wait for it, or give another folder "
                    "with --run."
                ) from error
            for name in (_RESUME, _RECORD, _BEST.format(stage="*", epoch="*")):
                for leftover in self.folder.glob(f".{name}.*"):
                    leftover.unlink()
            yield

    @property
    def model(self) -> Path:
        """Return the folder of the trained model, as timm saves one."""
        return self.folder / _MODEL

    def clear(self) -> None:
        """Remove what an earlier training left here: of any identity, and nothing else."""
        for name in (_RESUME, _RECORD):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.rmtree(self.folder / BOARD, ignore_errors=True)
        self._forget_best("")

    def finished(self) -> TrainingRecord | None:
        """Return the record of a finished training, or None."""
        try:
            content = json.loads((self.folder / _RECORD).read_text("utf-8"))
            identity = dict(content["identity"])
            record = _RECORDS.validate_python(content["record"])
        except FileNotFoundError:
            return None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise BuildRefused(
                f"{self.folder / _RECORD} is damaged: give --fresh to begin again."
            ) from error
        self._check(identity)
        return record

    def finish(self, record: TrainingRecord) -> None:
        """Write the record, after the model, and remove what a resume would need."""
        content = {"identity": self._identity, "record": _RECORDS.dump_python(record, mode="json")}
        write_atomically(self.folder / _RECORD, json.dumps(content, indent=1).encode())
        (self.folder / _RESUME).unlink(missing_ok=True)
        self._forget_best("")

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file to resume from; `state["best"]["file"]` is the best file to keep."""
        content = io.BytesIO()
        require("torch").save({"identity": json.dumps(self._identity), **state}, content)
        write_atomically(self.folder / _RESUME, content.getvalue())
        self._forget_best(state["best"]["file"] if state["best"] else "")

    def load(self) -> dict[str, Any] | None:
        """Return the state to resume from, or None if the training has not begun."""
        path = self.folder / _RESUME
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = require("torch").load(
                path, map_location="cpu", weights_only=True
            )
        except Exception as error:  # torch.load raises many unrelated classes
            raise BuildRefused(f"{path} is damaged: give --fresh to begin again.") from error
        self._check(json.loads(state["identity"]))
        return state

    def save_best(self, stage: int, epoch: int, weights: Mapping[str, Any]) -> str:
        """Write the best weights so far to a file of their own, and return its name."""
        name = _BEST.format(stage=stage, epoch=epoch)
        tensors = {key: value.cpu().contiguous() for key, value in weights.items()}
        write_atomically(self.folder / name, require("safetensors.torch").save(tensors))
        return name

    def load_best(self, name: str) -> dict[str, Any]:
        """Return the weights of a file that `save_best` wrote."""
        weights: dict[str, Any] = require("safetensors.torch").load_file(self.folder / name)
        return weights

    def _forget_best(self, kept: str) -> None:
        for path in self.folder.glob(_BEST.format(stage="*", epoch="*")):
            if path.name != kept:
                path.unlink()

    def _check(self, identity: Mapping[str, Any]) -> None:
        if differing := [
            f"{name} was {identity.get(name)} and is now {value}"
            for name, value in self._identity.items()
            if identity.get(name) != value
        ]:
            raise BuildRefused(
                f"{self.folder} has a training with other settings: {'; '.join(differing[:3])}. "
                "Give --fresh to begin again, or another folder with --run."
            )
