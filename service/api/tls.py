"""TLS for the listener: contexts from files, and the handshake of a connection.

A handshake is bounded in time and counts as a connection of its address. Each connection uses the
context that is current when it starts, so that a new certificate disturbs none.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, cast

from tidegate.service.api.limits import address_of
from tidegate.service.api.wire import Wire

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 5.0  # for the client's close_notify
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
    """The content of the files, for gRPC, which has a TLS library of its own."""

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
        files, authorities = self._files, None
        context, admin = _make_context(files), _make_context(files)
        if files.client_ca is not None:
            _require_certificates(context, files.client_ca)
            authorities = files.client_ca.read_bytes()
        self.pem = Pem(files.certificate.read_bytes(), files.key.read_bytes(), authorities)
        self._context, self._admin_context = context, admin

    def context_of(self, port: int) -> ssl.SSLContext:
        """Return the context for a new connection to a port."""
        return self._admin_context if port == self._admin_port else self._context


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


class Handshake(asyncio.Protocol):
    """A connection until its handshake is done; then its HTTP protocol takes over."""

    def __init__(self, tls: Tls, wire: Wire, make_http: Callable[[], asyncio.Protocol]) -> None:
        self._tls = tls
        self._wire = wire
        self._make_http = make_http
        self._early = bytearray()  # before the handshake starts, then before there is HTTP
        self._ended = self._lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a TCP server's
        """Start the handshake, or end a connection beyond the limit: it can be sent no answer.

        A unix socket is for a proxy on this machine, and is not encrypted.
        """
        if isinstance(transport.get_extra_info("sockname"), str):
            self._hand_over(transport)
            return
        transport.pause_reading()  # uvloop reads anyway, so `_start` passes on what arrives
        peer = transport.get_extra_info("peername")
        if not self._wire.connections.open(address := address_of(peer), self._wire.is_proxy(peer)):
            self._wire.on_shed()
            transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._shake(transport, address))
        self._wire.handshakes.add(task)  # otherwise the loop has the only reference, a weak one
        task.add_done_callback(self._wire.handshakes.discard)

    def data_received(self, data: bytes) -> None:
        """Keep what arrives too early."""
        self._early += data

    def eof_received(self) -> None:
        """Note the end of what arrives with the end of the handshake."""
        self._ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client has gone."""
        self._lost = True

    async def _shake(self, transport: asyncio.Transport, address: str) -> None:
        encrypted = None
        try:
            encrypted = await self._start(transport)
        except (OSError, RuntimeError) as error:  # all of TLS; a transport that is closed
            log.debug("TLS handshake with %s failed: %s", address, error)
        finally:
            self._wire.connections.close(address)
            if encrypted is None:
                transport.abort()
        if encrypted is not None and not self._lost:
            self._hand_over(encrypted)

    async def _start(self, transport: asyncio.Transport) -> asyncio.Transport | None:
        loop = asyncio.get_running_loop()
        starting = loop.create_task(
            loop.start_tls(
                transport,
                self,
                self._tls.context_of(transport.get_extra_info("sockname")[1]),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
                ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            )
        )
        await asyncio.sleep(0)  # start_tls has paused reading and scheduled the rest
        if self._early and not starting.done():
            loop.call_soon(_feed, transport.get_protocol(), bytes(self._early))
        self._early.clear()
        return await starting

    def _hand_over(self, transport: asyncio.Transport) -> None:
        http = self._make_http()
        transport.set_protocol(http)
        http.connection_made(transport)
        if self._early:
            http.data_received(bytes(self._early))
        if self._ended:
            http.eof_received()


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Pass encrypted data to the protocol that decrypts it."""
    decrypting = cast("asyncio.BufferedProtocol", protocol)  # uvloop's has its methods
    view = memoryview(data)
    while view:
        buffer = memoryview(decrypting.get_buffer(len(view)))
        count = min(len(view), len(buffer))
        buffer[:count] = view[:count]
        decrypting.buffer_updated(count)
        view = view[count:]


def over_tls(
    tls: Tls, wire: Wire, http: Callable[..., asyncio.Protocol]
) -> Callable[..., asyncio.Protocol]:
    """Return what makes the protocols of connections whose HTTP is encrypted."""

    def make(**options: Any) -> Handshake:
        return Handshake(tls, wire, partial(http, **options))

    return make
