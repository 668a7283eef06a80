"""Sign bundles, and require a signature by a trusted key."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.service.bundle import signature_format
from tidegate.service.bundle.keys import (
    TrustedKeys,
    fingerprint,
    read_private_key,
    read_trusted_keys,
)
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import SIGNATURE, Bundle, open_bundle, read_signature
from tidegate.service.errors import BundleRefused, KeyUnusable
from tidegate.service.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey


def open_trusted(path: Path, trusted_keys: Path | None) -> Bundle:
    """Open the bundle at `path`; with a folder of keys, one of them must have signed it.

    Raises BundleRefused or KeyUnusable.
    """
    keys = None if trusted_keys is None else read_trusted_keys(trusted_keys)
    bundle = open_bundle(path)
    if keys is not None:
        check_signature(path, bundle.manifest, read_signature(path), keys)
    return bundle


def check_signature(
    where: Path | str, manifest: Manifest, signature: bytes | None, trusted: TrustedKeys
) -> str:
    """Return the file name of the trusted key that signed the bundle with this manifest.

    `where` is the bundle's place, for messages. Raises BundleRefused if no trusted key signed it.
    """
    if signature is None:
        raise BundleRefused(
            f"{where} is not signed, and TIDEGATE_TRUSTED_KEYS requires a signature by a key of "
            f"{trusted.folder}. Sign it with `tidegate bundle sign`."
        )
    parsed = signature_format.parse(where, signature)
    name, key = _signer(where, parsed, trusted)
    signature_format.check(where, parsed, manifest, name, key)
    return name


def describe_signature(bundle: Bundle, trusted_keys: Path | None) -> str:
    """Describe who signed an open bundle. Raises BundleRefused or KeyUnusable."""
    signature = read_signature(bundle.path)
    if signature is None:
        return "none"
    if trusted_keys is None:
        hint = signature_format.parse(bundle.path, signature).fingerprint
        return (
            f"by key {hint[:16] or 'without a fingerprint'}, not checked: set TIDEGATE_TRUSTED_KEYS"
        )
    keys = read_trusted_keys(trusted_keys)
    name = check_signature(bundle.path, bundle.manifest, signature, keys)
    return f"valid, by the trusted key {name}"


def sign(bundle: Bundle, key_file: Path) -> str:
    """Write the bundle's signature by the private key in a PEM file; return its fingerprint.

    Raises KeyUnusable if the file is not a private key of an accepted curve, or cannot be read
    or written.
    """
    try:
        key = read_private_key(key_file)
        write_signature(bundle.path, signature_format.signed(bundle.manifest, key))
    except OSError as error:
        raise KeyUnusable(f"{error.filename}: {error.strerror}.") from error
    return fingerprint(key.public_key())


def write_signature(path: Path, content: bytes) -> None:
    """Write the signature of the bundle at `path`, or replace it. Raises OSError.

    The temporary file is outside the bundle, because a file that remained after a crash would make
    the bundle invalid. Only in a mounted folder it is inside: the parent may be another file system
    or not writable.
    """
    try:
        write_atomically(path / SIGNATURE, content, temporary_folder=path.resolve().parent)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        write_atomically(path / SIGNATURE, content)


def _signer(
    where: Path | str, parsed: signature_format.SigstoreBundle, trusted: TrustedKeys
) -> tuple[str, EllipticCurvePublicKey]:
    if not parsed.has_key:
        raise BundleRefused(
            f"{where}: {SIGNATURE} was not made with a key, but keyless or with a certificate. "
            "Sign it with `tidegate bundle sign` or `model_signing sign key`."
        )
    hint = parsed.fingerprint
    if hint not in trusted.keys:
        raise BundleRefused(
            f"{where} was signed by key {hint[:16] or 'without a fingerprint'}, which is not in "
            f"{trusted.folder} (TIDEGATE_TRUSTED_KEYS)."
        )
    return trusted.keys[hint]
