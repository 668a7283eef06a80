"""TensorRT plans on disk: found by everything they depend on, built once, whole or not there.

A plan is code that the runtime executes: the folder is the service's own, and nothing a client
sends reaches it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tidegate.service.errors import EngineUnavailable
from tidegate.service.files import sha256_of, write_atomically

log = logging.getLogger(__name__)

_PATIENCE_S = 3600.0  # another process may be building a large one
_PRIVATE = 0o700
Build = Callable[[], bytes]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that decides what a plan is and where it runs."""

    model_sha256: str
    tensorrt: str  # product and version
    cuda: str
    gpu: str
    compute_capability: str
    precision: str
    buckets: tuple[int, ...]
    flags: tuple[str, ...]  # of the build, sorted

    @property
    def digest(self) -> str:
        """Return the name of its file: the sha256 of the fields in their order."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


class PlanCache:
    """A private folder of plans, shared by processes."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, making it. Raises EngineUnavailable when it is not this user's alone."""
        self.folder = folder
        try:
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise EngineUnavailable(
                f"The folder for TensorRT plans cannot be used: {error}. Set TIDEGATE_PLAN_CACHE."
            ) from error
        # Windows has access lists instead, which keep a user's folders to the user.
        if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise EngineUnavailable(
                f"Others may write to {folder}, and a plan is code: give it to this user alone "
                f"(chmod 700), or set TIDEGATE_PLAN_CACHE."
            )

    def folder_of(self, model: Path) -> Path:
        """Return a folder for what a runtime itself keeps of this model, by its weights."""
        folder = self.folder / f"of-{sha256_of(model)}"
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        return folder

    def get(self, key: PlanKey) -> bytes | None:
        """Return a plan as it was put; None where there is none or its bytes have changed."""
        try:
            content = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, plan = content[:64], content[64:]
        if hashlib.sha256(plan).hexdigest().encode() != digest:
            log.warning("the plan %s is damaged, so it is built again", self.path(key))
            return None
        return plan

    def put(self, key: PlanKey, plan: bytes) -> None:
        """Keep a plan: beside its place first, then moved there."""
        digest = hashlib.sha256(plan).hexdigest().encode()
        # Beside the plan, for whoever wonders what a file is.
        write_atomically(
            self.path(key).with_suffix(".json"), json.dumps(asdict(key), indent=1).encode()
        )
        write_atomically(self.path(key), digest + plan)

    def drop(self, key: PlanKey) -> None:
        """Forget a plan."""
        self.path(key).unlink(missing_ok=True)

    def ensure(self, key: PlanKey, build: Build, *, wait: Say = log.info) -> bytes:
        """Return the plan, building it where there is none; one process builds, others wait."""
        if (plan := self.get(key)) is not None:
            return plan
        with self._locked(key, wait):
            if (plan := self.get(key)) is None:  # or another process has built it meanwhile
                plan = build()
                self.put(key, plan)
            return plan

    def timing(self, key: PlanKey) -> Path:
        """Return the file of measured kernels, which plans for one GPU and version share."""
        of = json.dumps([key.tensorrt, key.cuda, key.gpu, key.compute_capability])
        return self.folder / f"{hashlib.sha256(of.encode()).hexdigest()}.timing"

    def known_timing(self, key: PlanKey) -> bytes:
        """Return what was measured so far; nothing at first."""
        path = self.timing(key)
        return path.read_bytes() if path.exists() else b""

    def keep_timing(self, key: PlanKey, content: bytes) -> None:
        """Replace the file of measured kernels."""
        write_atomically(self.timing(key), content)

    def path(self, key: PlanKey) -> Path:
        """Return where the plan of a key is, or would be."""
        return self.folder / f"{key.digest}.plan"

    @contextlib.contextmanager
    def _locked(self, key: PlanKey, wait: Say) -> Iterator[None]:
        """Hold the lock on one key; the system lets go of it when its holder dies."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path(key).with_suffix(".lock"), mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            wait("another process is building this plan: waiting for it")
            try:
                lock.acquire(timeout=_PATIENCE_S)
            except Timeout as error:
                raise EngineUnavailable(
                    f"Another process has been building {self.path(key)} for an hour."
                ) from error
        with lock:
            lock.release()  # `with` has taken it once more
            yield
