"""Starts real stores on this machine. `make stores` fetches their programs; tests skip without.

S3 is SeaweedFS and the registry is Docker's; Azurite is Microsoft's emulator of Azure, and
fake-gcs-server an emulator of Google Cloud Storage.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.http_server import QuietHandler, serving
from tests.processes import stop
from tests.unit.distribution.https_server import self_signed

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".tools"
PATIENCE_S = 600
END_S = 5  # a store would wait for the connections that this process keeps open
# Azurite's account, which is public: it is the same in every installation.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
BUCKET = "models"
USER, PASSWORD = "me", "secret"


@dataclass(frozen=True)
class Store:
    """A running store: the URI below which bundles are put, and the environment for it."""

    uri: str
    environment: dict[str, str]

    def at(self, version: str) -> str:
        """Return the URI of one version of the bundle `tiny`."""
        return f"{self.uri}/tiny:{version}" if "oci" in self.uri else f"{self.uri}/tiny/{version}"


@contextmanager
def seaweedfs(folder: Path) -> Iterator[Store]:
    """Run SeaweedFS with its S3 interface and one user."""
    weed = _program("seaweedfs/bin/weed", "weed")
    master, volume, filer, s3 = _free_ports(4)
    user = {
        "name": "a",
        "credentials": [{"accessKey": "key", "secretKey": "secret"}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}), "utf-8")
    command = [
        *(weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *("-volume.max=5", "-master.volumeSizeLimitMB=64", "-s3", f"-s3.port={s3}"),
        *(f"-s3.config={folder / 's3.json'}", "-s3.autoCreateBucket"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"),
    ]
    with _running(command, folder, s3, "/"):
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        yield Store(f"s3://{BUCKET}", environment)


@contextmanager
def azurite(folder: Path) -> Iterator[Store]:
    """Run Azurite with one container."""
    script = _program("azurite/node_modules/.bin/azurite-blob", "azurite-blob")
    [port] = _free_ports(1)
    command = [
        *(script, "--location", folder, "--blobHost", "127.0.0.1", "--blobPort", port),
        *("--silent", "--skipApiVersionCheck"),
    ]
    with _running(command, folder, port, "/"):
        _create_container(port)
        environment = {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            "AZURE_ALLOW_HTTP": "true",
        }
        yield Store(f"az://{BUCKET}", environment)


@contextmanager
def fake_gcs(folder: Path) -> Iterator[tuple[Store, Callable[[Path, str], None]]]:
    """Run fake-gcs-server; also yield a function that uploads a folder.

    It does not have the uploads of the XML interface, which obstore uses, but that of JSON.
    """
    program = _program("fake-gcs-server", "fake-gcs-server")
    [port] = _free_ports(1)
    command = [
        *(program, "-backend", "memory", "-host", "127.0.0.1", "-port", port, "-scheme", "http"),
        *("-public-host", f"127.0.0.1:{port}"),
    ]
    account = {
        "gcs_base_url": f"http://127.0.0.1:{port}",
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (folder / "account.json").write_text(json.dumps(account), "utf-8")
    with _running(command, folder, port, "/storage/v1/b"):
        content = json.dumps({"name": BUCKET}).encode()
        _request(port, "POST", "/storage/v1/b", content, {"Content-Type": "application/json"})

        def upload(bundle: Path, prefix: str) -> None:
            for path in bundle.rglob("*"):
                if path.is_file():
                    name = f"{prefix}/{path.relative_to(bundle)}".replace("/", "%2F")
                    target = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
                    _request(port, "POST", target, path.read_bytes(), {})

        environment = {
            "GOOGLE_SERVICE_ACCOUNT": f"{folder / 'account.json'}",
            "GOOGLE_ALLOW_HTTP": "true",
        }
        yield Store(f"gs://{BUCKET}", environment), upload


@contextmanager
def registry(folder: Path, auth: dict[str, Any] | None = None) -> Iterator[Store]:
    """Run Docker's registry; with `auth`, a part of its configuration, it requires a login."""
    program = _program("docker-registry/usr/bin/docker-registry", "docker-registry")
    [port] = _free_ports(1)
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": f"{folder}"}},
        "http": {"addr": f"127.0.0.1:{port}"},
        **({"auth": auth} if auth else {}),
    }
    (folder / "config.yml").write_text(json.dumps(config), "utf-8")  # JSON is YAML
    with _running([program, "serve", folder / "config.yml"], folder, port, "/v2/"):
        yield Store(f"oci://127.0.0.1:{port}/{BUCKET}", {"HOME": f"{folder}"})


def log_in(store: Store, password: str) -> None:
    """Write what `docker login` would write."""
    host = store.uri.removeprefix("oci://").partition("/")[0]
    login = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = Path(store.environment["HOME"]) / ".docker" / "config.json"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps({"auths": {host: {"auth": login}}}), "utf-8")


@contextmanager
def token_registry(folder: Path) -> Iterator[Store]:
    """Run Docker's registry with a server that gives a token for exactly the scope asked for."""
    certificate, private = self_signed(folder)
    key = serialization.load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    with serving(_token_handler(certificate, key)) as port:
        token = {
            "realm": f"http://127.0.0.1:{port}/token",
            "service": "registry",
            "issuer": "a test",
            "rootcertbundle": f"{certificate}",
        }
        with registry(folder, {"token": token}) as store:
            yield store


def _token_handler(
    certificate: Path, key: ec.EllipticCurvePrivateKey
) -> type[BaseHTTPRequestHandler]:
    expected = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_error(401)
                return
            scope = parse_qs(urlsplit(self.path).query)["scope"][0]
            answer = json.dumps({"token": _token(certificate, key, scope)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return Handler


def _token(certificate: Path, key: ec.EllipticCurvePrivateKey, scope: str) -> str:
    """Return a JSON web token (ES256) that allows one scope, such as `repository:a/b:pull`."""
    kind, name, actions = scope.split(":")
    now = int(time.time())
    head = {"typ": "JWT", "alg": "ES256", "x5c": [_body(certificate)]}
    claims = {
        "iss": "a test",
        "sub": USER,
        "aud": "registry",
        "nbf": now - 60,
        "iat": now,
        "exp": now + 600,
        "jti": "1",
        "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
    }
    text = ".".join(_url64(json.dumps(part).encode()) for part in (head, claims))
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _body(pem: Path) -> str:
    return "".join(line for line in pem.read_text("utf-8").splitlines() if "-----" not in line)


def _url64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _program(path: str, name: str) -> Path:
    """Return the path of a program that was fetched, or is installed; otherwise skip the test."""
    found = TOOLS / path if (TOOLS / path).exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `make stores` fetches it")
    return Path(found)


@contextmanager
def _running(command: Sequence[object], folder: Path, port: int, path: str) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    try:
        _wait_for(process, port, path, folder / "log")
        yield
    finally:
        stop(process, END_S)


def _wait_for(process: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Poll the server, which sends no event, until it answers."""
    pause, end = threading.Event(), time.monotonic() + PATIENCE_S
    while True:
        try:
            _request(port, "GET", path, b"", {}, any_status=True)
        except OSError:
            assert process.poll() is None, log.read_text("utf-8", "replace")[-2000:]
            assert time.monotonic() < end, log.read_text("utf-8", "replace")[-2000:]
            pause.wait(0.2)
        else:
            return


def _request(
    port: int,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    any_status: bool = False,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        assert any_status or answer.status in (200, 201), (answer.status, content[:500])
    finally:
        connection.close()


def _create_container(port: int) -> None:
    """Create the container; obstore cannot. The signature is Azure's "shared key"."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    signed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    empty = "\n" * 12
    text = f"PUT{empty}{signed}/{ACCOUNT}/{ACCOUNT}/{BUCKET}\nrestype:container"
    mac = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mac).decode()}"
    headers["Content-Length"] = "0"
    _request(port, "PUT", f"/{ACCOUNT}/{BUCKET}?restype=container", b"", headers)


def _free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago. SeaweedFS also uses each plus 10,000."""
    opened: list[socket.socket] = []
    ports: list[int] = []
    while len(ports) < count:
        opened.append(socket.create_server(("127.0.0.1", 0)))
        port = opened[-1].getsockname()[1]
        if port + 10_000 < 1 << 16:
            ports.append(port)
    for one in opened:
        one.close()
    return ports
