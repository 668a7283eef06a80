"""Pull a bundle to this machine, or push one to another place.

A bundle is known by its digest: it covers the manifest, and the manifest the size and sha256 of
every file. So the place and the way to it need not be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tidegate.service.bundle.keys import read_trusted_keys
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.signature import check_signature
from tidegate.service.bundle.store import (
    MANIFEST,
    MAX_SIGNATURE_BYTES,
    MAX_TEXT_BYTES,
    SIGNATURE,
    Bundle,
    parse_manifest,
    read_signature,
)
from tidegate.service.distribution.folder import Folder
from tidegate.service.distribution.place import (
    AccessDenied,
    FileMissing,
    Place,
    read_small,
)
from tidegate.service.distribution.places import open_place, open_remote
from tidegate.service.distribution.staging import install
from tidegate.service.distribution.uri import Address
from tidegate.service.errors import BundleRefused, TransferFailed

Progress = Callable[[str, int, int], None]  # phase, bytes done, bytes in all


def pull(
    address: Address, bundles_dir: Path, trusted_keys: Path | None, progress: Progress
) -> Bundle:
    """Copy the bundle at `address` to `bundles_dir`/NAME/VERSION, if it is not there yet.

    An address without a digest accepts any bundle. Raises TransferFailed, BundleRefused if the
    bundle is not the one with that digest or not signed by a trusted key, or KeyUnusable.
    """
    keys = None if trusted_keys is None else read_trusted_keys(trusted_keys)
    place = open_place(address)
    manifest = _manifest(place)
    if address.digest not in (None, manifest.digest):
        raise BundleRefused(
            f"{place} has another bundle: its digest is {manifest.digest}, not {address.digest}."
        )
    signature = _signature(place)
    if keys is not None:
        check_signature(f"{place}", manifest, signature, keys)
    final = bundles_dir / manifest.name / manifest.version
    if keys is None and final.exists() and read_signature(final) is not None:
        signature = None  # an unchecked signature does not replace another
    report = _counted(f"pulling {manifest.name} {manifest.version}", manifest, progress)
    return install(place, manifest, signature, final, report)


def push(bundle: Bundle, address: Address, progress: Progress) -> None:
    """Copy a bundle, with its signature, to `address`, which must not have another bundle.

    The manifest is last, so that a reader sees a complete bundle or none. Raises TransferFailed.
    """
    if address.digest not in (None, bundle.digest):
        raise TransferFailed(
            f"{bundle.path} has the digest {bundle.digest}, not {address.digest} as in the address."
        )
    manifest, signature = bundle.manifest, read_signature(bundle.path)
    report = _counted(f"pushing {manifest.name} {manifest.version}", manifest, progress)
    if not address.scheme:
        install(Folder(bundle.path), manifest, signature, Path(address.path), report)
        return
    place = open_remote(address)
    there = _digest_at(place)
    if there not in (None, bundle.digest):
        raise TransferFailed(
            f"{place} has another bundle, digest {there}. A bundle is never replaced: push to "
            "another path or tag."
        )
    if there is not None and signature is None and _signature(place) is not None:
        raise TransferFailed(
            f"{place} has this bundle with a signature, and {bundle.path} has none: nothing to "
            "push."
        )
    signed = [] if signature is None else [SIGNATURE]
    place.publish(bundle.path, [*manifest.files, *signed, MANIFEST], report)


def _manifest(place: Place) -> Manifest:
    try:
        return parse_manifest(f"{place}", read_small(place, MANIFEST, MAX_TEXT_BYTES))
    except FileMissing as error:
        raise TransferFailed(f"{error} Is this the address of a bundle's folder?") from error


def _signature(place: Place) -> bytes | None:
    """Return the bundle's signature, if it has one.

    Some stores answer 403 for a missing object to a user who may not list objects. The manifest
    could be read, so this one is missing too.
    """
    try:
        return read_small(place, SIGNATURE, MAX_SIGNATURE_BYTES)
    except (FileMissing, AccessDenied):
        return None


def _digest_at(place: Place) -> str | None:
    try:
        return parse_manifest(f"{place}", read_small(place, MANIFEST, MAX_TEXT_BYTES)).digest
    except FileMissing:
        return None


def _counted(phase: str, manifest: Manifest, progress: Progress) -> Callable[[int], None]:
    total = sum(file.bytes for file in manifest.files.values())
    done = 0

    def report(received: int) -> None:
        nonlocal done
        before, done = done, min(done + received, total)
        if done != before:
            progress(phase, done, total)

    return report
