"""TensorRT plans on disk: keyed by everything they depend on, built once, written atomically.

A plan is code that the runtime executes. Therefore only the service's user may write to the
folder, and no client input reaches it.
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

_PATIENCE_S = 3600.0  # another process may be building a large plan
_PRIVATE = 0o700
Build = Callable[[], bytes]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PlanKey:
    """Everything that a plan depends on."""

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
        """Return the plan's file name: the sha256 of the fields in order."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


class PlanCache:
    """A private folder of plans, shared by this user's processes."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`; create it if needed. Raises EngineUnavailable if others can write to it."""
        self.folder = folder
        try:
            folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            status = folder.stat()
        except OSError as error:
            raise EngineUnavailable(
                f"The folder for TensorRT plans cannot be used: {error}. Set TIDEGATE_PLAN_CACHE."
            ) from error
        # Windows uses access lists instead, which by default protect a user's folders.
        if os.name == "posix" and (status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise EngineUnavailable(
                f"Other users can write to {folder}, and a plan is executable code: restrict the "
                f"folder to this user (chmod 700), or set TIDEGATE_PLAN_CACHE."
            )

    def folder_of(self, model: Path) -> Path:
        """Return the folder for a runtime's own cache of this model, keyed by its sha256."""
        folder = self.folder / f"of-{sha256_of(model)}"
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        return folder

    def get(self, key: PlanKey) -> bytes | None:
        """Return the plan, or None if there is none or its checksum does not match."""
        try:
            content = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        digest, plan = content[:64], content[64:]
        if hashlib.sha256(plan).hexdigest().encode() != digest:
            log.warning("cached plan %s is damaged; rebuilding it", self.path(key))
            return None
        return plan

    def put(self, key: PlanKey, plan: bytes) -> None:
        """Write a plan atomically."""
        digest = hashlib.sha256(plan).hexdigest().encode()
        # The key in readable form, for people who inspect the folder.
        write_atomically(
            self.path(key).with_suffix(".json"), json.dumps(asdict(key), indent=1).encode()
        )
        write_atomically(self.path(key), digest + plan)

    def drop(self, key: PlanKey) -> None:
        """Delete a plan."""
        self.path(key).unlink(missing_ok=True)

    def ensure(self, key: PlanKey, build: Build, *, wait: Say = log.info) -> bytes:
        """Return the plan; build it if there is none. One process builds, the others wait."""
        if (plan := self.get(key)) is not None:
            return plan
        with self._locked(key, wait):
            if (plan := self.get(key)) is None:  # another process may have built it meanwhile
                plan = build()
                self.put(key, plan)
            return plan

    def timing(self, key: PlanKey) -> Path:
        """Return the path of the timing cache, shared by all plans for one GPU and version."""
        of = json.dumps([key.tensorrt, key.cuda, key.gpu, key.compute_capability])
        return self.folder / f"{hashlib.sha256(of.encode()).hexdigest()}.timing"

    def known_timing(self, key: PlanKey) -> bytes:
        """Return the content of the timing cache; empty if there is none."""
        path = self.timing(key)
        return path.read_bytes() if path.exists() else b""

    def keep_timing(self, key: PlanKey, content: bytes) -> None:
        """Replace the timing cache."""
        write_atomically(self.timing(key), content)

    def path(self, key: PlanKey) -> Path:
        """Return the path of a key's plan, whether it exists or not."""
        return self.folder / f"{key.digest}.plan"

    @contextlib.contextmanager
    def _locked(self, key: PlanKey, wait: Say) -> Iterator[None]:
        """Lock one key; the operating system releases the lock if the process dies."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.path(key).with_suffix(".lock"), mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            wait("waiting for another process that is building this plan")
            try:
                lock.acquire(timeout=_PATIENCE_S)
            except Timeout as error:
                raise EngineUnavailable(
                    f"Another process has been building {self.path(key)} for an hour."
                ) from error
        with lock:
            lock.release()  # `with` acquired it a second time
            yield
