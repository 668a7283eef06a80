"""Write a bundle's folder atomically: it is complete or absent, even if the writer is killed.

Files are written to a hidden sibling folder, flushed to the disk and read back; one rename makes
them the bundle. A lock excludes a second writer; the kernel releases it if its owner dies.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tidegate.models.errors import BuildRefused
from tidegate.service.bundle.manifest import Manifest, Provenance
from tidegate.service.bundle.store import MANIFEST, Bundle, open_bundle
from tidegate.service.errors import BundleRefused
from tidegate.service.files import flush_folder

_BUILDING = ".building-"
_REPLACED = ".replaced-"


def check_writable(folder: Path) -> None:
    """Raise BuildRefused unless files can be written below `folder`, which may not exist yet.

    Creates nothing, so that a command can call it before long work.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise BuildRefused(f"Cannot write to {folder}: {existing} is not a folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise BuildRefused(f"Cannot write to {folder}: {existing} is not writable.")


@contextmanager
def locked(model_dir: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the exclusive lock to write below `model_dir`, the folder of one bundle name.

    Calls `on_wait` once if another writer has the lock, then waits. Leftovers of killed writers
    are removed on entry.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    with (model_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in model_dir.iterdir():
            if leftover.name.startswith((_BUILDING, _REPLACED)):
                _remove(leftover)
        yield


@contextmanager
def scratch(model_dir: Path) -> Iterator[Path]:
    """Yield a hidden folder below `model_dir` for temporary files; call it under `locked`.

    It is removed at the end, or by the next `locked` if the build is killed.
    """
    with TemporaryDirectory(prefix=_BUILDING, dir=model_dir) as folder:
        yield Path(folder)


def current(path: Path, made_as: Provenance) -> Bundle | str:
    """Return the valid bundle at `path` with provenance `made_as`, or why there is none."""
    if not path.exists():
        return "There is no bundle yet."
    try:
        bundle = open_bundle(path)
    except BundleRefused as error:
        return str(error)
    if bundle.manifest.provenance != made_as:
        return f"{path} was built with another recipe."
    return bundle


def write_bundle(
    model_dir: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    check: Callable[[Bundle], object] = lambda bundle: None,
) -> Bundle:
    """Write the bundle to `model_dir`/version, replacing an existing one; call it under `locked`.

    Raises BundleRefused if the written files are not a valid bundle, or what `check` raises; the
    existing bundle stays then.
    """
    token = secrets.token_hex(4)
    draft = model_dir / f"{_BUILDING}{manifest.version}-{token}"
    for name, content in files.items():
        _write(draft / name, content)
    _write(draft / MANIFEST, manifest.to_file())  # last: a folder without it is no bundle
    for folder in [draft, *(item for item in draft.rglob("*") if item.is_dir())]:
        flush_folder(folder)
    check(open_bundle(draft))
    final, aside = (
        model_dir / manifest.version,
        model_dir / f"{_REPLACED}{manifest.version}-{token}",
    )
    if final.exists() or final.is_symlink():
        final.rename(aside)
    draft.rename(final)
    flush_folder(model_dir)
    if aside.exists() or aside.is_symlink():
        _remove(aside)
    return open_bundle(final)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
