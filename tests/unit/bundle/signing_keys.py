"""Keys and the program `model_signing` for the tests of signatures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

PATIENCE_S = 120
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def private_key(path: Path, key: PrivateKey | None = None) -> Path:
    """Write a private key, P-256 by default."""
    path.write_bytes(
        (key or ec.generate_private_key(ec.SECP256R1())).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def public_key(path: Path, private: Path) -> Path:
    """Write the public key of a private one; creates the folder."""
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


def model_signing(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run OpenSSF's command, which is independent of the service."""
    return subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
