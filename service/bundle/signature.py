"""Signed bundles, in the OpenSSF model-signing format: `model.sig` is a Sigstore bundle.

It holds an in-toto statement with the sha256 of every file, in a DSSE envelope that an elliptic
curve key has signed. `model_signing verify key` accepts it, and its signatures are accepted here.
The package `cryptography` is imported late: only signed bundles need it.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Base64Bytes, BaseModel, Field, ValidationError

from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import (
    MANIFEST,
    SIGNATURE,
    Bundle,
    open_bundle,
    read_signature,
)
from tidegate.service.errors import BundleRefused, KeyUnusable
from tidegate.service.files import write_atomically

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

MAX_KEY_BYTES = 64 << 10
_CURVES = {"secp256r1": "SHA256", "secp384r1": "SHA384", "secp521r1": "SHA512"}
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_INSTALL = (
    "Signatures need the package cryptography: pip install 'tidegate[signing]' "
    "(in a checkout: pip install -e '.[signing]')."
)


class _PublicKeyHint(BaseModel):
    hint: str | None = None


class _Material(BaseModel):
    public_key: _PublicKeyHint | None = Field(default=None, alias="publicKey")


class _EnvelopeSignature(BaseModel):
    sig: Base64Bytes


class _Envelope(BaseModel):
    payload: Base64Bytes
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: tuple[_EnvelopeSignature]  # the format has exactly one


class _SigstoreBundle(BaseModel):
    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


class _Digest(BaseModel):
    sha256: str


class _Subject(BaseModel):
    digest: _Digest


class _Resource(BaseModel):
    name: str
    algorithm: Literal["sha256"]
    digest: str


class _Serialization(BaseModel):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Predicate(BaseModel):
    serialization: _Serialization
    resources: list[_Resource]


class _Statement(BaseModel):
    kind: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[_Subject]
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    predicate: _Predicate


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
            keys[_fingerprint(key)] = (path.name, key)
    except OSError as error:
        raise KeyUnusable(
            f"TIDEGATE_TRUSTED_KEYS: {error.filename} cannot be read: {error.strerror}."
        ) from error
    if not keys:
        raise KeyUnusable(f"TIDEGATE_TRUSTED_KEYS: there is no public key in {folder}.")
    return TrustedKeys(folder, keys)


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
    parsed = _parse(where, signature)
    name, key = _signer(where, parsed, trusted)
    _check_envelope(where, parsed.envelope, name, key)
    _check_statement(where, parsed.envelope.payload, manifest)
    return name


def describe_signature(bundle: Bundle, trusted_keys: Path | None) -> str:
    """Return who signed an open bundle, in words. Raises BundleRefused or KeyUnusable."""
    signature = read_signature(bundle.path)
    if signature is None:
        return "none"
    if trusted_keys is None:
        hint = _hint(_parse(bundle.path, signature))
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
    _require_cryptography()
    try:
        key = _private_key(key_file, _read_key(key_file))
        write_signature(bundle.path, _signed(bundle, key))
    except OSError as error:
        raise KeyUnusable(f"{error.filename}: {error.strerror}.") from error
    return _fingerprint(key.public_key())


def write_signature(path: Path, content: bytes) -> None:
    """Write the signature of the bundle at `path`, or replace it. Raises OSError.

    The temporary file is not in the bundle, as it would be no part of it after a crash; except in
    a mounted folder, whose parent is another file system or not writable.
    """
    try:
        write_atomically(path / SIGNATURE, content, temporary_folder=path.resolve().parent)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        write_atomically(path / SIGNATURE, content)


def _signed(bundle: Bundle, key: EllipticCurvePrivateKey) -> bytes:
    files = _signed_files(bundle.manifest)
    statement = {
        "_type": _STATEMENT_TYPE,
        "subject": [
            {
                "name": f"{bundle.manifest.name}-{bundle.manifest.version}",
                "digest": {"sha256": _root_digest(files.values())},
            }
        ],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest}
                for name, digest in files.items()
            ],
        },
    }
    payload = json.dumps(statement, sort_keys=True).encode()
    content = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": _fingerprint(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [
                {
                    "sig": base64.b64encode(
                        key.sign(_pre_authentication(payload), _algorithm(key.curve.name))
                    ).decode(),
                    "keyid": "",
                }
            ],
        },
    }
    return (json.dumps(content) + "\n").encode()


def _signed_files(manifest: Manifest) -> dict[str, str]:
    """Return the sha256 of every file of the bundle, also of its manifest, sorted by name."""
    sealed = hashlib.sha256(manifest.to_file()).hexdigest()
    files = {MANIFEST: sealed, **{name: file.sha256 for name, file in manifest.files.items()}}
    return dict(sorted(files.items()))


def _root_digest(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _pre_authentication(payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding of the payload."""
    return f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} ".encode() + payload


def _parse(where: Path | str, signature: bytes) -> _SigstoreBundle:
    try:
        return _SigstoreBundle.model_validate_json(signature)
    except ValidationError as error:
        raise BundleRefused(
            f"{where}: {SIGNATURE} is not a signature of the OpenSSF model-signing format: "
            f"{_first(error)}."
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'content'}: {first['msg']}"


def _hint(parsed: _SigstoreBundle) -> str:
    key = parsed.material.public_key
    return (key.hint if key else None) or ""


def _signer(
    where: Path | str, parsed: _SigstoreBundle, trusted: TrustedKeys
) -> tuple[str, EllipticCurvePublicKey]:
    if parsed.material.public_key is None:
        raise BundleRefused(
            f"{where}: {SIGNATURE} was not made with a key, but keyless or with a certificate. "
            "Sign it with `tidegate bundle sign` or `model_signing sign key`."
        )
    hint = _hint(parsed)
    if hint not in trusted.keys:
        raise BundleRefused(
            f"{where} was signed by key {hint[:16] or 'without a fingerprint'}, which is not in "
            f"{trusted.folder} (TIDEGATE_TRUSTED_KEYS)."
        )
    return trusted.keys[hint]


def _check_envelope(
    where: Path | str, envelope: _Envelope, name: str, key: EllipticCurvePublicKey
) -> None:
    from cryptography.exceptions import InvalidSignature

    signed = _pre_authentication(envelope.payload)
    try:
        key.verify(envelope.signatures[0].sig, signed, _algorithm(key.curve.name))
    except InvalidSignature as error:
        raise BundleRefused(
            f"{where}: {SIGNATURE} is not a valid signature by the key {name}."
        ) from error


def _check_statement(where: Path | str, payload: bytes, manifest: Manifest) -> None:
    """Raise BundleRefused unless what was signed are exactly the files of this bundle."""
    try:
        statement = _Statement.model_validate_json(payload)
        signed = {item.name: item.digest for item in statement.predicate.resources}
        root = _root_digest(item.digest for item in statement.predicate.resources)
    except ValidationError as error:
        raise BundleRefused(
            f"{where}: {SIGNATURE} signs something else than the files of a model: {_first(error)}."
        ) from error
    except ValueError as error:
        raise BundleRefused(f"{where}: {SIGNATURE}: a digest is not hexadecimal.") from error
    files = _signed_files(manifest)
    different = sorted(name for name in signed | files if signed.get(name) != files.get(name))
    if different:
        raise BundleRefused(
            f"{where}: {SIGNATURE} is of another bundle: {different[0]} differs from what was "
            "signed."
        )
    if len(statement.predicate.resources) != len(files) or (
        statement.subject[0].digest.sha256 != root
    ):
        raise BundleRefused(f"{where}: {SIGNATURE} contradicts itself: its digests do not agree.")


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


def _fingerprint(key: EllipticCurvePublicKey) -> str:
    """Return the sha256 of the key's PEM text, which is the format's key hint."""
    from cryptography.hazmat.primitives import serialization

    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(pem).hexdigest()


def _algorithm(curve: str) -> ECDSA:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    return ECDSA(getattr(hashes, _CURVES[curve])())
