"""The OpenSSF model-signing format: `model.sig` is a Sigstore bundle.

It holds an in-toto statement with the sha256 of every file, in a DSSE envelope that an elliptic
curve key has signed. `model_signing verify key` accepts it, and its signatures are accepted here.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Base64Bytes, BaseModel, Field, ValidationError

from tidegate.service.bundle.keys import algorithm, fingerprint
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import MANIFEST, SIGNATURE
from tidegate.service.errors import BundleRefused

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"


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


class SigstoreBundle(BaseModel):
    """A parsed `model.sig`."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")

    @property
    def has_key(self) -> bool:
        """Return whether a key made it, and not a certificate."""
        return self.material.public_key is not None

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the key that it names; "" if it names none."""
        key = self.material.public_key
        return (key.hint if key else None) or ""


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


def parse(where: Path | str, signature: bytes) -> SigstoreBundle:
    """Parse the content of `model.sig`. Raises BundleRefused; `where` is for its message."""
    try:
        return SigstoreBundle.model_validate_json(signature)
    except ValidationError as error:
        raise BundleRefused(
            f"{where}: {SIGNATURE} is not a signature of the OpenSSF model-signing format: "
            f"{_first(error)}."
        ) from error


def signed(manifest: Manifest, key: EllipticCurvePrivateKey) -> bytes:
    """Return the content of `model.sig` for the bundle with this manifest."""
    files = _signed_files(manifest)
    statement = {
        "_type": _STATEMENT_TYPE,
        "subject": [
            {
                "name": f"{manifest.name}-{manifest.version}",
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
            "publicKey": {"hint": fingerprint(key.public_key())},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [
                {
                    "sig": base64.b64encode(
                        key.sign(_pre_authentication(payload), algorithm(key))
                    ).decode(),
                    "keyid": "",
                }
            ],
        },
    }
    return (json.dumps(content) + "\n").encode()


def check(
    where: Path | str,
    parsed: SigstoreBundle,
    manifest: Manifest,
    name: str,
    key: EllipticCurvePublicKey,
) -> None:
    """Raise BundleRefused unless the key signed exactly the files of this manifest."""
    _check_envelope(where, parsed.envelope, name, key)
    _check_statement(where, parsed.envelope.payload, manifest)


def _check_envelope(
    where: Path | str, envelope: _Envelope, name: str, key: EllipticCurvePublicKey
) -> None:
    from cryptography.exceptions import InvalidSignature

    signed = _pre_authentication(envelope.payload)
    try:
        key.verify(envelope.signatures[0].sig, signed, algorithm(key))
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


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'content'}: {first['msg']}"
