"""Build what guards the service from its settings: keys, proxies and TLS."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tidegate.service.api.access import Access
from tidegate.service.api.audit import Audit, open_audit
from tidegate.service.api.clients import Clients
from tidegate.service.api.keys import Keyring
from tidegate.service.api.limits import ClientQuota, Quota, QuotaTable
from tidegate.service.api.proxies import Proxies
from tidegate.service.api.tls import Pem, Tls
from tidegate.service.errors import SettingsInvalid
from tidegate.service.followed_files import FollowedFiles
from tidegate.service.metrics import Metrics
from tidegate.service.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded from the files, for a process that starts while they cannot be used."""

    keyring: Keyring
    pem: Pem | None


@dataclass(frozen=True, slots=True)
class Security:
    """What guards the service."""

    clients: Clients
    quota: ClientQuota
    access: Access
    proxies: Proxies | None
    tls: Tls | None
    audit: Audit | None
    followed: list[FollowedFiles]  # to be polled

    @property
    def loaded(self) -> Loaded:
        """Return what is in use."""
        return Loaded(self.clients.keyring, None if self.tls is None else self.tls.pem)


def build(
    settings: Settings,
    metrics: Metrics,
    admin_port: int | None,
    quotas: QuotaTable | None = None,
    loaded: Loaded | None = None,
) -> Security:
    """Read the files of keys and certificates. Raises SettingsInvalid if one cannot be used.

    `quotas` are shared with other processes; None: this one answers all clients. `loaded` is what
    another process uses, and is used instead of a file that cannot be.
    """
    usual = Quota(settings.client_rate, settings.client_burst)
    clients = Clients(usual, metrics.set_clients)
    quota = ClientQuota(clients.quota_of, quotas)
    followed = []
    if (keys := settings.keys) is not None:
        load = partial(clients.load, keys)
        spare = None if loaded is None else partial(clients.use, loaded.keyring)
        followed.append(_follow("keys", "TIDEGATE_KEYS", [keys], load, spare, metrics))
    tls = None
    if (files := settings.tls_files()) is not None:
        tls = Tls(files, admin_port)
        name = "TIDEGATE_TLS_CERTIFICATE"
        spare = None if loaded is None or loaded.pem is None else partial(tls.use, loaded.pem)
        followed.append(_follow("certificate", name, files.paths, tls.load, spare, metrics))
    proxies = settings.proxies()
    audit = _open_audit(settings.audit_log, metrics)
    access = Access(
        clients if settings.keys is not None else None,
        settings.admin_token(),
        proxies,
        admin_port,
        audit,
        quota if usual.rate or settings.keys is not None else None,
    )
    return Security(clients, quota, access, proxies, tls, audit, followed)


def _open_audit(path: Path | None, metrics: Metrics) -> Audit | None:
    if path is None:
        return None
    try:
        return open_audit(path, metrics.audit_lines_dropped.inc)
    except OSError as error:
        raise SettingsInvalid(f"TIDEGATE_AUDIT_LOG={path}: {error.strerror}.") from error


def _follow(
    what: str,
    setting: str,
    paths: list[Path],
    load: Callable[[], object],
    fallback: Callable[[], object] | None,
    metrics: Metrics,
) -> FollowedFiles:
    on_refused = partial(metrics.refused_configuration, what)
    try:
        return FollowedFiles(what, paths, load, on_refused, fallback)
    except OSError as error:
        raise SettingsInvalid(
            f"{setting}: {error.filename} cannot be read: {error.strerror}."
        ) from error
    except ValueError as error:
        raise SettingsInvalid(f"{setting}={paths[0]}: {error}.") from error


def warn_if_exposed(settings: Settings, listeners: Iterable[socket.socket]) -> None:
    """Log a warning if other machines can connect, and nothing says who they may be."""
    if settings.keys or settings.tls_client_ca or settings.trusted_proxies:
        return
    exposed = [host for host in map(_host_of, listeners) if not _is_loopback(host)]
    if exposed:
        log.warning(
            "listening on %s without API keys: every machine that can connect may use the service. "
            "Set TIDEGATE_KEYS, or TIDEGATE_TRUSTED_PROXIES if a proxy checks who connects",
            ", ".join(dict.fromkeys(exposed)),
        )


def _host_of(listener: socket.socket) -> str:
    address = listener.getsockname()
    return str(address[0]) if isinstance(address, tuple) else ""


def _is_loopback(host: str) -> bool:
    """Return whether only this machine can connect; "" is a unix socket."""
    return not host or ipaddress.ip_address(host.partition("%")[0]).is_loopback
