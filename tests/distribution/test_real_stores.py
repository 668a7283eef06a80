"""A bundle goes to a real store and comes back, by the command that an operator runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.distribution import servers
from tests.distribution.servers import ROOT, Store
from tests.unit.bundle.signing_keys import private_key
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle.signature import sign
from tidegate.service.bundle.store import CARD, SIGNATURE, open_bundle
from tidegate.service.distribution import registry
from tidegate.service.distribution.transfer import pull, push
from tidegate.service.distribution.uri import parse

PATIENCE_S = 150
HASHED = "$2b$04$CdrIXsMhlSvCj3q.tastlOLCh9B5HFqVDFFm4WwiCE9feDSVWymzS"  # servers.PASSWORD
LARGE = b"\1\2\3\4" * (5 << 20)  # 20 MiB: sent in parts

pytestmark = pytest.mark.process


@pytest.fixture(scope="module", params=["s3", "az", "oci"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    start = {"s3": servers.seaweedfs, "az": servers.azurite, "oci": servers.registry}
    with start[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = put(tmp_path / "source", {**sound_files(), "large.bin": LARGE})
    sign(open_bundle(path), private_key(tmp_path / "k.pem"))
    return path


def tidegate(store: Store, *words: str | Path, **environment: str) -> str:
    """Run a command that must succeed; return what it prints."""
    done = _run(store, *words, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(store: Store, *words: str | Path, **environment: str) -> str:
    """Run a command that must fail with an explanation; return the explanation."""
    done = _run(store, *words, **environment)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("tidegate: "), done.stderr
    return done.stderr


def _run(store: Store, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidegate.service", "bundle", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **store.environment, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_bundle_goes_and_comes_back_with_its_signature(
    store: Store, tmp_path: Path, source: Path
) -> None:
    digest = open_bundle(source).digest

    printed = tidegate(store, "push", source, store.at("1")).strip()
    assert printed == f"{store.at('1')}@sha256:{digest}"
    tidegate(store, "pull", printed, tmp_path / "out")

    copy = tmp_path / "out" / "tiny" / "1"
    assert open_bundle(copy).digest == digest
    assert (copy / SIGNATURE).read_bytes() == (source / SIGNATURE).read_bytes()


def test_a_partial_file_is_continued(store: Store, tmp_path: Path, source: Path) -> None:
    manifest = open_bundle(source).manifest
    printed = tidegate(store, "push", source, store.at("2")).strip()
    partial = tmp_path / "out" / "tiny" / f".pulling-{manifest.digest[:32]}" / "partial"
    partial.mkdir(parents=True)
    # Only a pull that continues this file, which begins wrongly, notices it.
    (partial / manifest.files["large.bin"].sha256).write_bytes(bytes(15 << 20))

    message = refused(store, "pull", printed, tmp_path / "out")
    tidegate(store, "pull", printed, tmp_path / "out")

    assert "large.bin is not the file in the manifest" in message
    assert open_bundle(tmp_path / "out" / "tiny" / "1").digest == manifest.digest


def test_the_end_of_a_push_is_reported_once(store: Store, source: Path) -> None:
    done = _run(store, "push", source, store.at("5"))

    assert (done.returncode, done.stderr) == (0, "pushing tiny 1\n")


def test_pushing_the_same_again_is_no_error_and_another_is_refused(
    store: Store, tmp_path: Path, source: Path
) -> None:
    other = put(tmp_path / "other", {**sound_files(), CARD: b"another card"})
    tidegate(store, "push", source, store.at("3"))
    tidegate(store, "push", source, store.at("3"))

    message = refused(store, "push", other, store.at("3"))

    assert f"has another bundle, digest {open_bundle(source).digest}" in message
    tidegate(store, "pull", f"{store.at('3')}@sha256:{open_bundle(source).digest}", tmp_path / "o")


def test_another_digest_is_refused(store: Store, tmp_path: Path, source: Path) -> None:
    tidegate(store, "push", source, store.at("4"))

    message = refused(store, "pull", f"{store.at('4')}@sha256:{'0' * 64}", tmp_path / "out")

    assert f"its digest is {open_bundle(source).digest}, not 0000" in message


def test_a_missing_bundle_is_named(store: Store, tmp_path: Path) -> None:
    message = refused(store, "pull", f"{store.at('9')}@sha256:{'0' * 64}", tmp_path / "out")

    assert store.at("9") in message
    assert "Is this the address of a bundle's folder?" in message


def test_wrong_credentials_are_named(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with servers.seaweedfs(tmp_path_factory.mktemp("s3")) as store:
        uri = f"{store.at('1')}@sha256:{'0' * 64}"

        message = refused(store, "pull", uri, tmp_path / "out", AWS_ACCESS_KEY_ID="nobody")
        plain = refused(store, "pull", uri, tmp_path / "out", AWS_ALLOW_HTTP="")

    assert "access denied. Check the credentials" in message
    assert "ALLOW_HTTP is not true" in plain


def test_a_bundle_is_pulled_from_google_cloud_storage(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, source: Path
) -> None:
    with servers.fake_gcs(tmp_path_factory.mktemp("gcs")) as (store, upload):
        upload(source, "tiny/1")
        digest = open_bundle(source).digest

        tidegate(store, "pull", f"{store.at('1')}@sha256:{digest}", tmp_path / "out")

    assert open_bundle(tmp_path / "out" / "tiny" / "1").digest == digest


def test_a_large_layer_is_sent_in_parts(
    tmp_path: Path,
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_IN_CHUNKS_BYTES", 1 << 20)
    with servers.registry(tmp_path_factory.mktemp("oci")) as store:
        bundle = open_bundle(source)
        push(bundle, parse(store.at("1")), lambda *values: None)

        path = pull(parse(store.at("1")), tmp_path / "out", None, lambda *values: None).path

    assert open_bundle(path).digest == bundle.digest


@pytest.mark.parametrize("kind", ["password", "token"])
def test_a_registry_with_a_login_accepts_the_right_one_only(
    kind: str, tmp_path: Path, source: Path
) -> None:
    with _with_login(kind, tmp_path) as store:
        message = refused(store, "push", source, store.at("1"))
        assert "access denied" in message
        assert "Log in with `docker login 127.0.0.1:" in message
        servers.log_in(store, "wrong")
        assert "access denied" in refused(store, "push", source, store.at("1"))

        servers.log_in(store, servers.PASSWORD)
        printed = tidegate(store, "push", source, store.at("1")).strip()
        tidegate(store, "pull", printed, tmp_path / "out")

    assert open_bundle(tmp_path / "out" / "tiny" / "1").digest == open_bundle(source).digest


@contextmanager
def _with_login(kind: str, tmp_path: Path) -> Iterator[Store]:
    folder = tmp_path / "registry"
    folder.mkdir()
    if kind == "token":
        with servers.token_registry(folder) as store:
            yield store
        return
    (folder / "htpasswd").write_text(f"{servers.USER}:{HASHED}\n", "utf-8")
    auth = {"htpasswd": {"realm": "basic", "path": f"{folder / 'htpasswd'}"}}
    with servers.registry(folder, auth) as store:
        yield store
