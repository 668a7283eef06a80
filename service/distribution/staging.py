"""Make a bundle appear in one step: files are collected in a hidden folder, verified, and renamed.

Whenever the process is killed, the bundle's place has what it had before, or the complete bundle.
What was collected stays, and the next attempt for the same digest continues with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.service.bundle.manifest import File, Manifest
from tidegate.service.bundle.signature import write_signature
from tidegate.service.bundle.store import MANIFEST, SIGNATURE, Bundle, open_bundle, read_signature
from tidegate.service.distribution.place import Interrupted, Place
from tidegate.service.errors import BundleRefused, TransferFailed
from tidegate.service.files import flush_folder, sha256_of, write_atomically

PREFIX = ".pulling-"
_ATTEMPTS = 3  # consecutive ones without a new byte
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
Report = Callable[[int], None]  # gets the number of bytes that are complete


def install(
    place: Place, manifest: Manifest, signature: bytes | None, final: Path, report: Report
) -> Bundle:
    """Copy the bundle with this manifest from `place` to the folder `final`, or keep it there.

    A signature replaces that of the same bundle. Raises TransferFailed if another bundle is there
    or the transfer fails, and BundleRefused if a file is not what the manifest says.
    """
    staging = final.parent / f"{PREFIX}{manifest.digest[:32]}"
    with _disk_errors(final, manifest), _locked(staging):
        if not final.exists():
            _collect(place, manifest, staging, report)
            return _reveal(manifest, signature, staging, final)
        shutil.rmtree(staging)
        return _keep(manifest, signature, final)


def _keep(manifest: Manifest, signature: bytes | None, final: Path) -> Bundle:
    try:
        there = open_bundle(final)
    except BundleRefused as error:
        raise TransferFailed(
            f"{error} The folder {final} is not a valid bundle: remove it, and try again."
        ) from error
    if there.digest != manifest.digest:
        raise TransferFailed(
            f"{final} has another bundle, digest {there.digest}. A bundle is never replaced: give "
            "the new one another version, or remove that folder."
        )
    if signature is not None and signature != read_signature(final):
        write_signature(final, signature)
    return there


def _collect(place: Place, manifest: Manifest, staging: Path, report: Report) -> None:
    """Copy every file that is not complete; a partial one is continued."""
    (staging / "partial").mkdir(exist_ok=True)
    missing = {name: file for name, file in manifest.files.items() if not _has(staging, name, file)}
    needed = sum(file.bytes - _size(_partial(staging, file)) for file in missing.values())
    free = shutil.disk_usage(staging).free
    if needed > free:
        raise TransferFailed(
            f"{staging.parent}: no space: the bundle needs {needed:,} bytes more, and {free:,} are "
            "free."
        )
    report(sum(file.bytes for name, file in manifest.files.items() if name not in missing))
    for name, file in missing.items():
        _fetch(place, name, file, _partial(staging, file), report)
        if sha256_of(_partial(staging, file)) != file.sha256:
            _partial(staging, file).unlink()
            raise BundleRefused(
                f"{place}: {name} is not the file in the manifest: its sha256 differs."
            )
        _flush(_partial(staging, file))
        target = staging / "bundle" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _partial(staging, file).replace(target)


def _fetch(place: Place, name: str, file: File, partial: Path, report: Report) -> None:
    """Append to `partial` until it has the file's size; never write more than that."""
    failed, restarted = 0, False
    partial.touch()
    while (start := _size(partial)) < file.bytes:
        try:
            _append(place, name, file, partial, report)
            error = Interrupted(f"{place}: {name} is shorter than in the manifest.")
        except Interrupted as interrupted:
            error = interrupted
        failed = 0 if _size(partial) > start else failed + 1
        if failed == _ATTEMPTS:
            raise error
        if failed and start and not restarted:  # the place may not be able to continue a file
            restarted = True
            report(-start)
            partial.write_bytes(b"")


def _append(place: Place, name: str, file: File, partial: Path, report: Report) -> None:
    size = _size(partial)
    with partial.open("ab") as out:
        for chunk in place.read(name, size):
            size += len(chunk)
            if size > file.bytes:
                raise BundleRefused(
                    f"{place}: {name} is larger than the {file.bytes:,} bytes in the manifest."
                )
            out.write(chunk)
            report(len(chunk))


def _reveal(manifest: Manifest, signature: bytes | None, staging: Path, final: Path) -> Bundle:
    folder = staging / "bundle"
    if signature is not None:
        write_atomically(folder / SIGNATURE, signature, staging / "partial")
    write_atomically(folder / MANIFEST, manifest.to_file(), staging / "partial")
    for item in [folder, *(item for item in folder.rglob("*") if item.is_dir())]:
        flush_folder(item)
    open_bundle(folder)
    folder.rename(final)
    flush_folder(final.parent)
    shutil.rmtree(staging)
    return open_bundle(final)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _has(staging: Path, name: str, file: File) -> bool:
    path = staging / "bundle" / name
    return path.is_file() and _size(path) == file.bytes and sha256_of(path) == file.sha256


def _partial(staging: Path, file: File) -> Path:
    return staging / "partial" / file.sha256


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _locked(staging: Path) -> Iterator[None]:
    """Hold the lock of the folder `staging`, which is created; another process waits for it."""
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # its owner has just finished
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_open_at(descriptor, staging):  # not renamed or removed by the owner before
                yield
                return
        finally:
            os.close(descriptor)


def _is_open_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def _disk_errors(final: Path, manifest: Manifest) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or final.parent
        if error.errno in _FULL:
            total = sum(file.bytes for file in manifest.files.values())
            raise TransferFailed(
                f"{where}: {error.strerror}. The bundle has {total:,} bytes; what was transferred "
                "is kept for the next attempt."
            ) from error
        raise TransferFailed(f"{where} cannot be written: {error.strerror}.") from error
