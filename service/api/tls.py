"""TLS: the contexts of new connections, from files that may change.

Each connection uses the context that is current when it starts, so that a new certificate disturbs
none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

# TLS 1.2 with forward secrecy and authenticated encryption only; TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files."""

    certificate: Path  # with its chain
    key: Path
    client_ca: Path | None  # None: clients need no certificate

    @property
    def paths(self) -> list[Path]:
        """Return all of them."""
        return [path for path in (self.certificate, self.key, self.client_ca) if path is not None]


@dataclass(frozen=True, slots=True)
class Pem:
    """The content of the files, for other processes and for gRPC's own TLS library."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class Tls:
    """The contexts of new connections."""

    def __init__(self, files: TlsFiles, admin_port: int | None) -> None:
        """No client needs a certificate on the admin port, because probes and scrapers have none.

        Call `load` before the first connection.
        """
        self._files = files
        self._admin_port = admin_port
        self._context = self._admin_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.pem = Pem(b"", b"", None)

    def load(self) -> None:
        """Read the files. Raises ValueError or OSError, and changes nothing, if one is unusable."""
        self._load(self._files)

    def use(self, pem: Pem) -> None:
        """Use what another process has loaded. Raises ValueError or OSError. Linux only."""
        with _as_files(pem) as files:
            self._load(files)

    def context_of(self, port: int) -> ssl.SSLContext:
        """Return the context for a new connection to a port."""
        return self._admin_context if port == self._admin_port else self._context

    def _load(self, files: TlsFiles) -> None:
        authorities = None
        context, admin = _make_context(files), _make_context(files)
        if files.client_ca is not None:
            _require_certificates(context, files.client_ca)
            authorities = files.client_ca.read_bytes()
        self.pem = Pem(files.certificate.read_bytes(), files.key.read_bytes(), authorities)
        self._context, self._admin_context = context, admin


@contextlib.contextmanager
def _as_files(pem: Pem) -> Iterator[TlsFiles]:
    """Yield files in memory: OpenSSL, as Python has it, loads a key from a path alone."""
    with contextlib.ExitStack() as opened:

        def as_file(content: bytes) -> Path:
            file = opened.enter_context(open(os.memfd_create("pem"), "wb", buffering=0))
            file.write(content)
            return Path(f"/proc/self/fd/{file.fileno()}")

        authorities = None if pem.client_ca is None else as_file(pem.client_ca)
        yield TlsFiles(as_file(pem.certificate), as_file(pem.key), authorities)


def _make_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(files.certificate, files.key, _no_password)
    except ssl.SSLError as error:
        raise ValueError(
            f"{files.certificate} and {files.key} are not a certificate and its unencrypted key "
            f"in PEM format ({error.reason or error})"
        ) from error
    return context


def _require_certificates(context: ssl.SSLContext, authorities: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise ValueError(
            f"{authorities} has no certificates in PEM format ({error.reason or error})"
        ) from error


def _no_password() -> NoReturn:
    raise ValueError("the key is encrypted; write it without a password")


def certificate_name(transport: asyncio.BaseTransport) -> str:
    """Return the name in the certificate of a connection's client; "" if it has none."""
    certificate: dict[str, Any] = transport.get_extra_info("peercert") or {}
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value for kind, value in subject if kind == "commonName"]
    names += [value for kind, value in certificate.get("subjectAltName", ())]
    names += [",".join(f"{kind}={value}" for kind, value in subject)]
    return next(filter(None, names), "")
