"""Put the bundle that a command made into the folder of models, as its model's next version.

A command gets its task in its environment, and writes the bundle into a folder of its own. Only
what is complete and named as requested gets into the folder of models, in one step.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tidegate.models.retrain.errors import NotPublished, OptionRefused
from tidegate.models.retrain.folder import RequestFolder, read
from tidegate.service.bundle.manifest import SLUG
from tidegate.service.bundle.store import MANIFEST, Bundle, open_bundle
from tidegate.service.distribution.transfer import pull
from tidegate.service.distribution.uri import Address
from tidegate.service.errors import BundleRefused, TransferFailed
from tidegate.service.files import write_atomically
from tidegate.service.serving.order import age
from tidegate.service.serving.repository import RESERVED

_MAKING = ".making-"
_NEWEST = ".newest-version"  # of a model, although it may have been deleted since
_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Task:
    """What a command is to make."""

    model: str
    version: str  # of the new bundle
    drifted: Path  # the bundle that the request is about
    out: Path  # where the command writes NAME/VERSION/

    def environment(self) -> dict[str, str]:
        """Return the variables for the command."""
        return {
            "RETRAIN_MODEL": self.model,
            "RETRAIN_VERSION": self.version,
            "RETRAIN_BUNDLE": str(self.drifted),
            "RETRAIN_OUT": str(self.out),
        }


@dataclass(frozen=True, slots=True)
class Publisher:
    """Gives commands their tasks, and publishes in `models`, the service's TIDEGATE_MODELS."""

    models: Path
    requests: RequestFolder

    def check(self) -> None:
        """Remove what a killed receiver left. Raises OptionRefused if nothing can be published."""
        if not self.models.is_dir():
            raise OptionRefused(f"--models {self.models}: there is no such folder.")
        if not os.access(self.models, os.W_OK | os.X_OK):
            raise OptionRefused(f"--models {self.models}: the folder is not writable.")
        for leftover in self.requests.path.glob(f"{_MAKING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @contextmanager
    def task(self, request: Path) -> Iterator[Task]:
        """Yield the task for a request; its folder is removed at the end.

        Raises NotPublished if the bundle that the request is about is not in the folder.
        """
        filed = read(request)
        if filed is None:
            raise NotPublished(f"{request.name} was removed or is not a valid request.")
        model = self.models.resolve() / filed.model
        drifted = model / filed.version
        if not (drifted / MANIFEST).is_file():
            raise NotPublished(f"There is no bundle {drifted}.")
        version = next_version(self._remember(model))
        with TemporaryDirectory(
            prefix=_MAKING, dir=self.requests.path.resolve(), ignore_cleanup_errors=True
        ) as out:
            yield Task(filed.model, version, drifted, Path(out))

    def publish(self, task: Task) -> Bundle | None:
        """Copy the bundle of a finished task; return None if the command made none.

        Raises NotPublished.
        """
        made = [path.parent for path in task.out.glob(f"[!.]*/[!.]*/{MANIFEST}")]
        if not made:
            return None
        if len(made) > 1:
            raise NotPublished(f"The command made {len(made)} bundles; expected one.")
        try:
            manifest = open_bundle(made[0]).manifest  # before anything is copied
            if (manifest.name, manifest.version) != (task.model, task.version):
                raise NotPublished(
                    f"The command made {manifest.name} {manifest.version} instead of {task.model} "
                    f"{task.version}. It must use RETRAIN_MODEL and RETRAIN_VERSION."
                )
            self._remember(self.models.resolve() / task.model, task.version)
            address = Address("", "", str(made[0]), manifest.digest)
            return pull(address, self.models, None, lambda *_: None)
        except (BundleRefused, TransferFailed) as error:
            raise NotPublished(f"{error}") from error

    @staticmethod
    def _remember(model: Path, *more: str) -> list[str]:
        """Return all known versions of a model, and remember the newest: none is made again.

        `more` are versions that will be there. Raises OSError.
        """
        versions = [path.name for path in model.iterdir() if path.is_dir()]
        newest = model / _NEWEST
        remembered = newest.read_text("ascii", "replace")[:_LONGEST] if newest.exists() else ""
        known = [name for name in (*versions, remembered.strip(), *more) if _is_version(name)]
        content = f"{max(known, key=age)}\n"
        if content != remembered:
            write_atomically(newest, content.encode())
        return known


def _is_version(name: str) -> bool:
    return re.fullmatch(SLUG, name) is not None and name not in RESERVED


def next_version(versions: Iterable[str]) -> str:
    """Return a version that is newer than all of these: the newest one's last number plus one."""
    newest = max(versions, key=age)
    numbers = list(re.finditer(r"\d+", newest))
    if not numbers:
        return f"{newest}-2"
    last = numbers[-1]
    return newest[: last.start()] + str(int(last[0]) + 1).zfill(len(last[0]))
