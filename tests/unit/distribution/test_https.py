"""A bundle is pulled over TLS from a server that disconnects, rejects or sends wrong bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.unit.bundle.tiny_bundle import put, sound_files
from tests.unit.distribution.https_server import Server, serving
from tidegate.service.bundle.store import LABELS, MANIFEST, MODEL, SIGNATURE, open_bundle
from tidegate.service.distribution import object_store
from tidegate.service.distribution.place import AccessDenied, Interrupted
from tidegate.service.distribution.transfer import pull, push
from tidegate.service.distribution.uri import parse
from tidegate.service.errors import BundleRefused, TransferFailed

PADDING = b"-" * (3 << 20)  # so that a file arrives in several pieces
NOTES = "notes.bin"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return put(tmp_path / "source", {**sound_files(), NOTES: PADDING})


@pytest.fixture
def server(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    no_patience = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
    monkeypatch.setattr(object_store, "RETRIES", no_patience)
    with serving(source, tmp_path) as started:
        monkeypatch.setenv("SSL_CERT_FILE", f"{started.certificate}")
        yield started


def pulled(server: Server, digest: str | None = None) -> Path:
    address = f"{server.url}@sha256:{digest or open_bundle(server.folder).digest}"
    return pull(parse(address), server.folder.parent / "out", None, lambda *values: None).path


def test_a_bundle_is_pulled(server: Server) -> None:
    path = pulled(server)

    assert open_bundle(path).digest == open_bundle(server.folder).digest
    assert (path / NOTES).read_bytes() == PADDING


def test_a_transfer_that_breaks_off_is_continued_where_it_ended(server: Server) -> None:
    server.breaks_after = 2 << 20

    pulled(server)

    assert [start for name, start in server.requests if name == NOTES] == [0, 2 << 20]


def test_a_later_pull_continues_an_earlier_one(server: Server) -> None:
    server.statuses[MODEL] = 503
    with pytest.raises(Interrupted, match=r"model\.onnx: .*503 Service Unavailable"):
        pulled(server)
    complete = {name for name, _ in server.requests} - {MODEL, MANIFEST, SIGNATURE}
    server.statuses.clear()
    server.requests.clear()

    pulled(server)

    asked = {name for name, _ in server.requests}
    assert MODEL in asked
    assert complete & asked == set()


def test_a_server_that_cannot_continue_starts_the_file_again_once(server: Server) -> None:
    server.ranges = False
    server.breaks_after = 2 << 20

    with pytest.raises(Interrupted, match=NOTES):
        pulled(server)
    assert 0 < len([name for name, _ in server.requests if name == NOTES]) < 10
    server.breaks_after = None
    pulled(server)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_reported_at_once(server: Server, status: int) -> None:
    server.statuses[MANIFEST] = status

    with pytest.raises(AccessDenied, match=f"manifest.json: access denied.*{status}"):
        pulled(server)
    assert len(server.requests) == 1


def test_a_missing_bundle_is_reported_with_its_address(server: Server) -> None:
    server.statuses[MANIFEST] = 404

    with pytest.raises(TransferFailed, match=f"{re.escape(server.url)}: there is no manifest"):
        pulled(server)


def test_a_signature_that_may_not_be_read_counts_as_missing(server: Server) -> None:
    server.statuses[SIGNATURE] = 403

    assert not (pulled(server) / SIGNATURE).exists()


def test_another_bundle_is_refused_after_its_manifest(server: Server) -> None:
    with pytest.raises(BundleRefused, match="has another bundle"):
        pulled(server, "0" * 64)
    assert [name for name, _ in server.requests] == [MANIFEST]


def test_a_changed_file_is_refused(server: Server) -> None:
    digest = open_bundle(server.folder).digest
    (server.folder / LABELS).write_bytes((server.folder / LABELS).read_bytes().swapcase())

    with pytest.raises(BundleRefused, match=r"labels\.txt is not the file in the manifest"):
        pulled(server, digest)


def test_a_manifest_that_never_ends_is_not_read_to_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = open_bundle(server.folder).digest
    monkeypatch.setattr("tidegate.service.distribution.transfer.MAX_TEXT_BYTES", 1000)

    with pytest.raises(TransferFailed, match=r"manifest\.json is larger than 1,000 bytes"):
        pulled(server, digest)


def test_an_unknown_certificate_is_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")

    with pytest.raises(Interrupted, match="invalid certificate: UnknownIssuer"):
        pulled(server)


def test_a_machine_that_does_not_answer_is_named(server: Server) -> None:
    address = parse("https://127.0.0.1:9/bundles")

    with pytest.raises(Interrupted, match=r"127\.0\.0\.1:9.*Connection refused"):
        pull(address, server.folder.parent / "out", None, lambda *values: None)


def test_nothing_is_pushed_over_https(server: Server) -> None:
    server.statuses[MANIFEST] = 404

    with pytest.raises(TransferFailed, match="https is for pulling only"):
        push(open_bundle(server.folder), parse(server.url), lambda *values: None)
