"""What the settings make of keys, certificates and listeners."""

from __future__ import annotations

import hashlib
import logging
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from tidegate.service import security
from tidegate.service.errors import SettingsInvalid
from tidegate.service.metrics import Metrics
from tidegate.service.settings import Settings


class FakeListener:
    """A listening socket that only has a name."""

    def __init__(self, name: object) -> None:
        self._name = name

    def getsockname(self) -> object:
        return self._name


def warnings(caplog: pytest.LogCaptureFixture, *names: object, **given: Any) -> list[str]:
    listeners = [cast("socket.socket", FakeListener(name)) for name in names]
    security.warn_if_exposed(Settings.read(given), listeners)
    return [record.message for record in caplog.records]


def test_a_port_that_other_machines_reach_without_keys_is_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    names = (("0.0.0.0", 8000), ("::", 8000, 0, 0), ("127.0.0.1", 8000))  # noqa: S104 - a name

    (warning,) = warnings(caplog, *names)

    assert warning.startswith("listening on 0.0.0.0, :: without API keys")
    assert "TIDEGATE_KEYS" in warning
    assert "TIDEGATE_TRUSTED_PROXIES" in warning


@pytest.mark.parametrize("name", [("127.0.0.1", 1), ("::1", 1, 0, 0), "/run/tidegate.sock"])
def test_a_port_of_this_machine_is_no_warning(
    caplog: pytest.LogCaptureFixture, name: object
) -> None:
    assert warnings(caplog, name) == []


@pytest.mark.parametrize(
    "given",
    [
        {"keys": "keys"},
        {"trusted_proxies": "10.0.0.0/8"},
        {"tls_certificate": "a", "tls_key": "b", "tls_client_ca": "c"},
    ],
)
def test_whoever_says_who_may_connect_gets_no_warning(
    caplog: pytest.LogCaptureFixture, given: dict[str, str]
) -> None:
    assert warnings(caplog, ("192.0.2.1", 8000), **given) == []


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    keys, pem = tmp_path / "keys", tmp_path / "pem"
    keys.write_text("a b\n")
    pem.write_text("no certificate")

    for given, reason in (
        ({"keys": keys}, f"TIDEGATE_KEYS={keys}: line 1: 2 columns"),
        ({"keys": tmp_path / "gone"}, "TIDEGATE_KEYS: .*gone cannot be read: No such file"),
        ({"keys": tmp_path}, "is not a regular file"),
        ({"tls_certificate": pem, "tls_key": pem}, f"TIDEGATE_TLS_CERTIFICATE={pem}: .* are not"),
        ({"audit_log": tmp_path / "gone" / "log"}, "TIDEGATE_AUDIT_LOG=.*: No such file"),
    ):
        with pytest.raises(SettingsInvalid, match=reason):
            security.build(Settings.read(given), Metrics("0"), None)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"tls_certificate": "a"}, "need each other"),
        ({"tls_client_ca": "a"}, "needs TIDEGATE_TLS_CERTIFICATE"),
        ({"admin_port": 8000}, "is the same as TIDEGATE_PORT"),
        ({"trusted_proxies": "nginx"}, "expected networks such as"),
        ({"cors_origins": "app.example.com"}, "is not an origin"),
        ({"cors_origins": "https://app.example.com/"}, "is not an origin"),
        ({"cors_origins": "https://a.example, *"}, "is not an origin"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    given: dict[str, object], reason: str
) -> None:
    with pytest.raises(SettingsInvalid, match=reason):
        Settings.read(given)


def test_the_series_of_clients_that_are_removed_end(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"a").hexdigest()
    (tmp_path / "keys").write_text(f"a {digest} classify\n")
    metrics = Metrics("0")
    built = security.build(Settings.read({"keys": tmp_path / "keys"}), metrics, None)
    metrics.client_request("a", 200)
    metrics.client_request("unknown", 200)
    series = b'tidegate_client_requests_total{client="%s",status="200"}'
    assert series % b"a" in metrics.render()
    assert series % b"unknown" not in metrics.render()

    (tmp_path / "keys").write_text(f"b {digest} classify\n")
    for _ in range(2):
        built.followed[0].poll()

    assert series % b"a" not in metrics.render()


def test_the_log_of_security_is_quiet(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Nothing that is read from the file of keys is logged."""
    caplog.set_level(logging.DEBUG)
    digest = hashlib.sha256(b"a").hexdigest()
    (tmp_path / "keys").write_text(f"a {digest} classify\n")

    security.build(Settings.read({"keys": tmp_path / "keys"}), Metrics("0"), None)

    assert digest not in caplog.text
