"""A real server with TLS, client certificates and an admin port."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from cryptography import x509

from tests.certificates import Authority, Issued
from tests.client_environments import environment
from tests.processes import output
from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, running
from tests.unit.bundle.tiny_bundle import put, sound_files

SCANS = (
    *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--compression"),
    *("--reneg", "--robot", "--heartbleed", "--openssl_ccs"),
)
PHOTO = (PHOTOS / "chelsea.png").read_bytes()


@dataclass
class Encrypted:
    """The server and its certificates."""

    server: Server
    authority: Authority
    issued: Issued
    client: ssl.SSLContext

    @property
    def admin_url(self) -> str:
        started = self.server.wait_for("operators' routes are on")
        return str(started["message"]).removeprefix("operators' routes are on ")


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    issued = authority.issue("server")
    with running(
        put(folder / "bundle", sound_files()),
        ood_action="flag",
        tls_certificate=issued.certificate,
        tls_key=issued.key,
        tls_client_ca=authority.path,
        admin_port=0,
        grpc_port=0,
    ) as server:
        yield Encrypted(
            server, authority, issued, authority.client_context(authority.issue("camera-7"))
        )


def test_a_client_with_a_certificate_is_answered_and_named(encrypted: Encrypted) -> None:
    with httpx.Client(verify=encrypted.client, timeout=PATIENCE_S) as client:
        answer = client.post(encrypted.server.url + "/classify", content=PHOTO)

    assert answer.status_code == 200, answer.text
    logged = encrypted.server.wait_for("request", request_id=answer.headers["x-request-id"])
    assert logged["certificate"] == "camera-7"


def test_a_client_without_a_certificate_of_the_authority_is_not_answered(
    encrypted: Encrypted, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("camera-7")
    impostor = encrypted.authority.client_context(stranger)

    for context in (encrypted.authority.client_context(), impostor):
        with (
            pytest.raises(httpx.TransportError),
            httpx.Client(verify=context, timeout=PATIENCE_S) as client,
        ):
            client.get(encrypted.server.url + "/livez")


def test_the_admin_port_needs_no_certificate(
    encrypted: Encrypted, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = encrypted.authority.client_context()
    with httpx.Client(verify=context, timeout=PATIENCE_S) as client:
        assert client.get(encrypted.admin_url + "/readyz").status_code == 200
        assert client.get(encrypted.admin_url + "/metrics").status_code == 200
    monkeypatch.setenv("TIDEGATE_ADMIN_PORT", str(urlsplit(encrypted.admin_url).port))
    monkeypatch.setenv("TIDEGATE_TLS_CERTIFICATE", str(encrypted.issued.certificate))

    command = [sys.executable, "-m", "tidegate.service", "health"]
    assert "ready" in subprocess.check_output(command, cwd=ROOT, text=True, timeout=PATIENCE_S)


def test_calls_over_grpc_need_a_certificate_too(encrypted: Encrypted) -> None:
    line = encrypted.server.wait_for("serving gRPC on")["message"]
    address = line.removeprefix("serving gRPC on ")
    issued = encrypted.authority.issue("camera-8")
    own = {
        "private_key": issued.key.read_bytes(),
        "certificate_chain": issued.certificate.read_bytes(),
    }
    trusted = encrypted.authority.path.read_bytes()

    def is_live(**certificate: bytes) -> bytes:
        credentials = grpc.ssl_channel_credentials(trusted, **certificate)
        with grpc.secure_channel(address, credentials) as channel:
            live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
            return bytes(live(b"", timeout=PATIENCE_S))

    assert is_live(**own) == b"\x08\x01"
    logged = encrypted.server.wait_for("request", certificate="camera-8")
    assert logged["route"] == "/inference.GRPCInferenceService/ServerLive"
    with pytest.raises(grpc.RpcError) as refused:
        is_live()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_new_certificate_is_used_without_closing_a_connection(encrypted: Encrypted) -> None:
    other = encrypted.authority.issue("renewed")
    admin = urlsplit(encrypted.admin_url)

    def serial() -> int:
        pem = ssl.get_server_certificate((str(admin.hostname), admin.port or 0))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    with httpx.Client(verify=encrypted.client, timeout=PATIENCE_S) as client:
        client.get(encrypted.server.url + "/livez")
        before = serial()
        shutil.copy(other.certificate, encrypted.issued.certificate)
        encrypted.server.wait_for("certificate not reloaded")
        assert serial() == before
        shutil.copy(other.key, encrypted.issued.key)
        encrypted.server.wait_for("certificate reloaded")

        assert serial() == other.serial
        answer = client.get(encrypted.server.url + "/livez")
        assert answer.status_code == 200


@pytest.mark.slow
def test_sslyze_finds_no_weakness(encrypted: Encrypted, tmp_path: Path) -> None:
    """On the admin port, which needs no client certificate."""
    program = environment("sslyze>=6,<7") / "bin" / "sslyze"
    found = tmp_path / "found.json"
    address = f"127.0.0.1:{urlsplit(encrypted.admin_url).port}"
    command: list[str | Path] = [
        program,
        f"--json_out={found}",
        "--mozilla_config=disable",
        *SCANS,
        address,
    ]

    output(command, tmp_path, os.environ, 4 * PATIENCE_S)

    [result] = json.loads(found.read_text())["server_scan_results"]
    scans = {name: scan["result"] for name, scan in result["scan_result"].items()}
    for old in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"):
        assert not scans[f"{old}_cipher_suites"]["accepted_cipher_suites"], old
    accepted = [
        suite["cipher_suite"]["name"]
        for version in ("tls_1_2", "tls_1_3")
        for suite in scans[f"{version}_cipher_suites"]["accepted_cipher_suites"]
    ]
    assert accepted
    assert all("GCM" in name or "CHACHA20" in name for name in accepted), accepted
    assert not scans["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not scans["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert not scans["tls_compression"]["supports_compression"]
    renegotiation = scans["session_renegotiation"]
    assert not renegotiation["is_vulnerable_to_client_renegotiation_dos"]
    assert "NOT_VULNERABLE" in scans["robot"]["robot_result"]
