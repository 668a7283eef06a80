"""A server of files over TLS on this machine, which fails as configured and records requests."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import http_server


@dataclass
class Server:
    """What it serves, how it fails, and which ranges were requested."""

    folder: Path
    certificate: Path
    url: str = ""
    statuses: dict[str, int] = field(default_factory=dict)  # by file
    breaks_after: int | None = None  # bytes of one answer
    ranges: bool = True  # whether it can continue a file
    requests: list[tuple[str, int]] = field(default_factory=list)  # file, first byte


@contextmanager
def serving(folder: Path, scratch: Path) -> Iterator[Server]:
    """Serve the files of a folder below /bundles until the end of the block."""
    certificate, key = self_signed(scratch)
    state = Server(folder, certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http_server.serving(_handler(state), context) as port:
        state.url = f"https://127.0.0.1:{port}/bundles"
        yield state


def _handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(http_server.QuietHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/bundles/")
            asked = self.headers.get("Range", "bytes=0-")
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            state.requests.append((name, start))
            path = state.folder / name
            status = state.statuses.get(name, 200 if path.is_file() else 404)
            if status != 200:
                self.send_error(status)
                return
            content = path.read_bytes()
            if start and not state.ranges:
                start = 0
            elif start:
                status = 206
            self.send_response(status)
            if status == 206:
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.end_headers()
            end = None if state.breaks_after is None else start + state.breaks_after
            self.wfile.write(content[start:end])

    return Handler


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its key; return their paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "private.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private
