"""A trusted signature is by a trusted key and of exactly this bundle; OpenSSF's tool agrees."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tests.unit.bundle.signing_keys import model_signing, private_key, public_key
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle import signature_format
from tidegate.service.bundle.keys import MAX_KEY_BYTES, read_trusted_keys
from tidegate.service.bundle.signature import describe_signature, open_trusted, sign
from tidegate.service.bundle.store import LABELS, MANIFEST, SIGNATURE, open_bundle
from tidegate.service.engines.config import EngineConfig
from tidegate.service.errors import BundleRefused, KeyUnusable
from tidegate.service.startup import prepare

Content = dict[str, Any]
Change = Callable[[Content], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return put(tmp_path / "tiny" / "1", sound_files())


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return private_key(tmp_path / "key.pem")


@pytest.fixture
def trusted(tmp_path: Path, key: Path) -> Path:
    return public_key(tmp_path / "trusted" / "ours.pem", key).parent


def signed(path: Path, key: Path) -> Path:
    sign(open_bundle(path), key)
    return path


def edit(path: Path, change: Change) -> None:
    content = json.loads((path / SIGNATURE).read_text("utf-8"))
    change(content)
    (path / SIGNATURE).write_text(json.dumps(content), "utf-8")


def edit_statement(path: Path, key: Path, change: Change) -> None:
    """Change what is signed, and sign it again with the same key, without the service's code."""
    content = json.loads((path / SIGNATURE).read_text("utf-8"))
    envelope = content["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    change(statement)
    payload = json.dumps(statement).encode()
    encoded = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(
        private.sign(encoded, ec.ECDSA(hashes.SHA256()))
    ).decode()
    (path / SIGNATURE).write_text(json.dumps(content), "utf-8")


def test_a_signed_bundle_opens_with_its_key(path: Path, key: Path, trusted: Path) -> None:
    digest = open_bundle(path).digest

    signed(path, key)

    assert open_trusted(path, trusted).digest == digest
    assert open_bundle(path).digest == digest
    assert describe_signature(open_bundle(path), trusted) == "valid, by the trusted key ours.pem"


@pytest.mark.lengthy
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_openssf_accepts_our_signature(path: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    key = private_key(tmp_path / "key.pem", ec.generate_private_key(curve))
    public = public_key(tmp_path / "trusted" / "ours.pem", key)

    signed(path, key)
    verified = model_signing(
        "verify", "key", path, "--signature", path / SIGNATURE, "--public_key", public
    )

    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert open_trusted(path, public.parent).path == path


@pytest.mark.lengthy
def test_openssf_rejects_a_file_that_changed_after_we_signed(
    path: Path, key: Path, trusted: Path
) -> None:
    (signed(path, key) / LABELS).write_text("other\n", "utf-8")

    verified = model_signing(
        "verify",
        "key",
        path,
        "--signature",
        path / SIGNATURE,
        "--public_key",
        trusted / "ours.pem",
    )

    assert verified.returncode != 0
    assert "Hash mismatch for 'labels.txt'" in verified.stdout + verified.stderr


@pytest.mark.lengthy
@pytest.mark.parametrize("outside", [False, True], ids=["in the bundle", "outside"])
def test_we_accept_a_signature_by_openssf(
    path: Path, tmp_path: Path, key: Path, trusted: Path, outside: bool
) -> None:
    file = tmp_path / "outside.sig" if outside else path / SIGNATURE
    made = model_signing("sign", "key", path, "--signature", file, "--private_key", key)
    assert made.returncode == 0, made.stdout + made.stderr
    if outside:
        file.rename(path / SIGNATURE)

    assert open_trusted(path, trusted).path == path


def test_a_signature_by_openssf_with_another_hash_is_rejected_with_the_reason(
    path: Path, tmp_path: Path, key: Path, trusted: Path
) -> None:
    signed(path, key)
    edit_statement(path, key, lambda s: s["predicate"]["serialization"].update(hash_type="blake3"))

    with pytest.raises(BundleRefused, match=r"serialization\.hash_type: Input should be 'sha256'"):
        open_trusted(path, trusted)


def test_an_unsigned_bundle_is_rejected_only_if_keys_are_set(path: Path, trusted: Path) -> None:
    assert open_trusted(path, None).path == path
    assert describe_signature(open_bundle(path), None) == "none"
    with pytest.raises(BundleRefused, match="is not signed, and TIDEGATE_TRUSTED_KEYS requires"):
        open_trusted(path, trusted)


def test_the_service_does_not_start_with_an_unsigned_bundle(path: Path, trusted: Path) -> None:
    with pytest.raises(BundleRefused, match="is not signed"):
        prepare(path, trusted, EngineConfig("onnx-cpu"))


def test_a_signature_by_another_key_is_rejected_with_its_fingerprint(
    path: Path, tmp_path: Path, trusted: Path
) -> None:
    fingerprint = sign(open_bundle(path), private_key(tmp_path / "other.pem"))

    with pytest.raises(BundleRefused, match=f"signed by key {fingerprint[:16]}, which is not in"):
        open_trusted(path, trusted)
    assert fingerprint[:16] in describe_signature(open_bundle(path), None)


def test_a_signature_that_claims_a_trusted_key_is_not_enough(
    path: Path, tmp_path: Path, key: Path, trusted: Path
) -> None:
    ours = sign(open_bundle(path), key)
    sign(open_bundle(path), private_key(tmp_path / "other.pem"))
    edit(path, lambda c: c["verificationMaterial"]["publicKey"].update(hint=ours))

    with pytest.raises(BundleRefused, match=r"not a valid signature by the key ours\.pem"):
        open_trusted(path, trusted)


def test_a_signature_of_another_bundle_is_rejected(
    path: Path, tmp_path: Path, key: Path, trusted: Path
) -> None:
    other = put(tmp_path / "other", {**sound_files(), "notes.txt": b"more"})
    shutil.copy(signed(other, key) / SIGNATURE, path / SIGNATURE)

    with pytest.raises(BundleRefused, match=r"of another bundle: manifest\.json differs"):
        open_trusted(path, trusted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["predicate"]["resources"].pop(), "of another bundle"),
        (lambda s: s["predicate"]["resources"].append({**_more("x")}), "of another bundle: x"),
        (
            lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
            "contradicts itself",
        ),
        (lambda s: s["subject"][0]["digest"].update(sha256="0" * 64), "contradicts itself"),
        (lambda s: s["predicate"]["resources"][0].update(digest="xyz"), "not hexadecimal"),
        (lambda s: s.update(predicateType="https://slsa.dev"), "something else than the files"),
        (lambda s: s.update(_type="https://in-toto.io/Statement/v0"), "something else"),
    ],
)
def test_a_statement_that_is_not_of_all_files_is_rejected(
    path: Path, key: Path, trusted: Path, change: Change, message: str
) -> None:
    edit_statement(signed(path, key), key, change)

    with pytest.raises(BundleRefused, match=message):
        open_trusted(path, trusted)


def _more(name: str) -> Content:
    return {"name": name, "algorithm": "sha256", "digest": "0" * 64}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"),
        lambda c: c["dsseEnvelope"].update(payloadType="text/plain"),
        lambda c: c["dsseEnvelope"]["signatures"].append(c["dsseEnvelope"]["signatures"][0]),
        lambda c: c["dsseEnvelope"].update(signatures=[]),
        lambda c: c["dsseEnvelope"].update(payload="A"),
        lambda c: c.pop("verificationMaterial"),
    ],
)
def test_another_format_is_rejected(path: Path, key: Path, trusted: Path, change: Change) -> None:
    edit(signed(path, key), change)

    with pytest.raises(BundleRefused, match="not a signature of the OpenSSF model-signing format"):
        open_trusted(path, trusted)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_a_signature_that_is_no_json_object_is_rejected(
    path: Path, trusted: Path, content: bytes
) -> None:
    (path / SIGNATURE).write_bytes(content)

    with pytest.raises(BundleRefused, match="not a signature of the OpenSSF model-signing format"):
        open_trusted(path, trusted)


def test_a_signature_with_a_certificate_is_rejected_with_advice(
    path: Path, key: Path, trusted: Path
) -> None:
    edit(signed(path, key), lambda c: c.update(verificationMaterial={"certificate": {}}))

    with pytest.raises(BundleRefused, match="keyless or with a certificate"):
        open_trusted(path, trusted)


def test_a_signature_is_replaced_by_the_next(path: Path, tmp_path: Path, key: Path) -> None:
    sign(open_bundle(path), private_key(tmp_path / "old.pem"))
    signed(path, key)

    trusted = public_key(tmp_path / "trusted" / "ours.pem", key).parent
    assert open_trusted(path, trusted).path == path


def test_hidden_files_and_links_are_as_kubernetes_mounts_them(
    path: Path, tmp_path: Path, key: Path
) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    public_key(mount / "..data" / "ours.pem", key)
    (mount / "ours.pem").symlink_to("..data/ours.pem")

    assert open_trusted(signed(path, key), mount).path == path


def test_a_folder_without_usable_keys_is_an_error(tmp_path: Path, key: Path) -> None:
    folder = tmp_path / "trusted"
    with pytest.raises(KeyUnusable, match="trusted cannot be read: No such file"):
        read_trusted_keys(folder)
    folder.mkdir()
    with pytest.raises(KeyUnusable, match="there is no public key in"):
        read_trusted_keys(folder)
    shutil.copy(key, folder / "private.pem")
    with pytest.raises(KeyUnusable, match=r"private\.pem is not a public key in PEM format"):
        read_trusted_keys(folder)
    (folder / "private.pem").write_bytes(b" " * (MAX_KEY_BYTES + 1))
    with pytest.raises(KeyUnusable, match="larger than 65,536 bytes: not a key"):
        read_trusted_keys(folder)


def test_a_key_of_another_kind_is_an_error(path: Path, tmp_path: Path) -> None:
    key = private_key(tmp_path / "ed.pem", ed25519.Ed25519PrivateKey.generate())

    with pytest.raises(KeyUnusable, match="elliptic curve keys, P-256, P-384 or P-521"):
        sign(open_bundle(path), key)
    with pytest.raises(KeyUnusable, match="elliptic curve keys, P-256, P-384 or P-521"):
        read_trusted_keys(public_key(tmp_path / "trusted" / "ed.pem", key).parent)
    assert not (path / SIGNATURE).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no key", "not a private key in PEM format"), (None, "No such file or directory")],
)
def test_a_private_key_that_cannot_be_used_is_an_error(
    path: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "k.pem").write_bytes(content)

    with pytest.raises(KeyUnusable, match=rf"k\.pem.*{re.escape(message)}"):
        sign(open_bundle(path), tmp_path / "k.pem")


def test_an_encrypted_private_key_is_an_error_with_advice(path: Path, tmp_path: Path) -> None:
    (tmp_path / "k.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )

    with pytest.raises(KeyUnusable, match="is encrypted: decrypt it first"):
        sign(open_bundle(path), tmp_path / "k.pem")


def test_a_missing_package_is_named_with_its_extra(
    path: Path, key: Path, trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    for act in (lambda: sign(open_bundle(path), key), lambda: open_trusted(path, trusted)):
        with pytest.raises(KeyUnusable, match=r"pip install 'tidegate\[signing\]'"):
            act()


def test_the_sealed_manifest_is_the_file_that_is_signed(path: Path) -> None:
    manifest = open_bundle(path).manifest

    assert manifest.to_file() == (path / MANIFEST).read_bytes()
    assert signature_format._signed_files(manifest).keys() == {MANIFEST, *manifest.files}
