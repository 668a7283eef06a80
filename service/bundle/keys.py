"""The keys of signatures, in PEM files: private keys that sign, public keys that are trusted.

The package `cryptography` is imported late: only signed bundles need it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tidegate.service.errors import KeyUnusable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

MAX_KEY_BYTES = 64 << 10
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_INSTALL = (
    "Signatures need the package cryptography: pip install 'tidegate[signing]' "
    "(in a checkout: pip install -e '.[signing]')."
)


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys of a folder, by fingerprint, with the names of their files."""

    folder: Path
    keys: Mapping[str, tuple[str, EllipticCurvePublicKey]]


def read_trusted_keys(folder: Path) -> TrustedKeys:
    """Return the public keys in the PEM files of `folder`; hidden files are not read.

    Raises KeyUnusable if a file is not such a key, or if there is none.
    """
    _require_cryptography()
    keys = {}
    try:
        paths = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        for path in paths:
            key = _public_key(path, _read_key(path))
            keys[fingerprint(key)] = (path.name, key)
    except OSError as error:
        raise KeyUnusable(
            f"TIDEGATE_TRUSTED_KEYS: {error.filename} cannot be read: {error.strerror}."
        ) from error
    if not keys:
        raise KeyUnusable(f"TIDEGATE_TRUSTED_KEYS: there is no public key in {folder}.")
    return TrustedKeys(folder, keys)


def read_private_key(path: Path) -> EllipticCurvePrivateKey:
    """Return the private key in a PEM file.

    Raises KeyUnusable if it is not a private key of an accepted curve, and OSError.
    """
    _require_cryptography()
    return _private_key(path, _read_key(path))


def fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the sha256 of the key's PEM text, which is the format's key hint."""
    from cryptography.hazmat.primitives import serialization

    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def algorithm(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> ECDSA:
    """Return the signature algorithm of the key's curve."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _CURVES[key.curve.name])())


def _require_cryptography() -> None:
    if importlib.util.find_spec("cryptography") is None:
        raise KeyUnusable(_INSTALL)


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_KEY_BYTES + 1)
    if len(content) > MAX_KEY_BYTES:
        raise KeyUnusable(f"{path} is larger than {MAX_KEY_BYTES:,} bytes: not a key.")
    return content


def _public_key(path: Path, content: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_public_key(content)
    except ValueError as error:
        raise KeyUnusable(f"{path} is not a public key in PEM format.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise KeyUnusable(_wrong_curve(path))
    return key


def _private_key(path: Path, content: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        key = serialization.load_pem_private_key(content, None)
    except TypeError as error:  # it needs a password
        raise KeyUnusable(
            f"{path} is encrypted: decrypt it first, for example with `openssl pkey`."
        ) from error
    except ValueError as error:
        raise KeyUnusable(f"{path} is not a private key in PEM format.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise KeyUnusable(_wrong_curve(path))
    return key


def _wrong_curve(path: Path) -> str:
    return (
        f"{path} is not a key of an accepted kind: the model-signing format has elliptic curve "
        "keys, P-256, P-384 or P-521."
    )
