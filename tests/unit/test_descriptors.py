"""No client, proxy or protocol can use every file descriptor."""

from __future__ import annotations

import resource

import pytest

from tidegate.service.api.crowd import Connections
from tidegate.service.descriptors import ConnectionLimits


@pytest.mark.parametrize(("descriptors", "allowed"), [(80, 40), (1024, 512), (65536, 1000)])
def test_one_address_never_has_more_than_half_of_the_descriptors(
    descriptors: int, allowed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (descriptors, descriptors))
    limits = ConnectionLimits.of(1000, with_rpc=False)

    connections = Connections(limits.per_client, limits.in_all)

    assert sum(connections.open("192.0.2.1") for _ in range(1001)) == allowed
    assert connections.open("192.0.2.2")


@pytest.mark.parametrize(("with_rpc", "most"), [(False, 90), (True, 60)])
def test_a_trusted_proxy_may_have_what_is_for_connections(
    with_rpc: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 100))
    limits = ConnectionLimits.of(10, with_rpc=with_rpc)

    connections = Connections(limits.per_client, limits.in_all)

    assert sum(connections.open("10.0.0.1", is_proxy=True) for _ in range(100)) == most
    assert not with_rpc or limits.rpc == 30


def test_without_a_limit_of_the_process_only_the_operators_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)

    assert ConnectionLimits.of(10, with_rpc=True) == ConnectionLimits(10)
