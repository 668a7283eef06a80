from __future__ import annotations

from typing import Any

import pytest

from tidegate.service.api.limits import client_of
from tidegate.service.api.proxies import parse_proxies

PROXY, CLIENT = "10.0.0.1", "192.0.2.7"
TRUSTED = "10.0.0.0/8, fd00::/8"


def client(*headers: tuple[str, str], peer: str | None = PROXY, trusted: str = TRUSTED) -> str:
    """Return what a request with these headers is counted for."""
    scope: dict[str, Any] = {
        "client": None if peer is None else (peer, 1),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    parse_proxies(trusted).resolve(scope)
    return client_of(scope)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (CLIENT, CLIENT),
        (f" {CLIENT} ", CLIENT),
        (f"{CLIENT}:5123", CLIENT),
        (f"203.0.113.9, {CLIENT}", CLIENT),  # the client has sent the first one itself
        (f"{CLIENT}, 10.1.1.1", CLIENT),  # through two proxies
        ("10.1.1.1, 10.2.2.2", "10.1.1.1"),  # a client inside
        ("2001:db8::1", "2001:db8::/64"),
        ("[2001:db8::1]:443", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"{CLIENT}, ::ffff:10.1.1.1", CLIENT),
        (f"{CLIENT}, fd00::1", CLIENT),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_not_a_proxy(value: str, found: str) -> None:
    assert client(("x-forwarded-for", value)) == found


@pytest.mark.parametrize(
    "value",
    [
        "",
        ",",
        f"{CLIENT},",
        "unknown",
        "localhost",
        f"{CLIENT} {CLIENT}",
        f"{CLIENT}:5123:1",
        f"{CLIENT}:123456",
        "[2001:db8::1",
        "2001:db8::1]:443",
        "2001:db8::g",
        "999.1.1.1",
        "192.0.2.07",
        f"{CLIENT}\x00",
        f"{CLIENT}, unknown, 10.1.1.1",
        ", ".join([CLIENT] * 33),
        CLIENT + " " * 2100,
    ],
)
def test_a_malformed_header_is_not_believed(value: str) -> None:
    assert client(("x-forwarded-for", value)) == PROXY


def test_what_is_wrong_left_of_the_client_does_not_matter() -> None:
    assert client(("x-forwarded-for", f"<script>, {CLIENT}")) == CLIENT


def test_several_headers_are_one_list() -> None:
    assert client(("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", CLIENT)) == CLIENT


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (f"for={CLIENT}", CLIENT),
        (f'For="{CLIENT}:4711"', CLIENT),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::/64"),
        (f"for={CLIENT};proto=http;by=203.0.113.43", CLIENT),
        (f"proto=https;for={CLIENT}, for=10.1.1.1;by=10.0.0.1", CLIENT),
        (f'host="a,b;for=6.6.6.6";for={CLIENT}', CLIENT),
        (f'for="6.6.6.6\\", for=1.1.1.1", for={CLIENT}', CLIENT),
        ("for=unknown", PROXY),
        ("for=_hidden", PROXY),
        ("for=2001:db8::1", PROXY),  # must be quoted
        ("for=", PROXY),
        ("proto=http", PROXY),
        (f"for={CLIENT};for=1.1.1.1", PROXY),
        (f"for={CLIENT}, proto=http", PROXY),
        (f'for="{CLIENT}', PROXY),
        (f"for={CLIENT},", PROXY),
        (CLIENT, PROXY),
    ],
)
def test_the_standard_header_is_read_too(value: str, found: str) -> None:
    assert client(("forwarded", value)) == found


def test_two_headers_are_believed_only_if_they_agree() -> None:
    ours = ("x-forwarded-for", CLIENT)

    assert client(ours, ("forwarded", f"for={CLIENT}")) == CLIENT
    assert client(ours, ("forwarded", "for=6.6.6.6")) == PROXY
    assert client(ours, ("forwarded", "nonsense")) == PROXY


def test_only_a_trusted_proxy_is_believed() -> None:
    assert client(("x-forwarded-for", CLIENT), peer="192.0.2.99") == "192.0.2.99"
    assert client(("x-forwarded-for", CLIENT), peer=None) == "unknown"
    assert client(("x-forwarded-for", CLIENT), peer=None, trusted="unix") == CLIENT
    assert client(("x-forwarded-for", CLIENT), peer="::ffff:10.0.0.1") == CLIENT


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "proxy", "10.0.0.0/8,,unix"])
def test_a_wrong_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected networks"):
        parse_proxies(text)
