"""Quotas that several processes spend together."""

from __future__ import annotations

import os

import pytest

from tidegate.service.api.limits import ClientQuota, Quota
from tidegate.service.errors import QuotaExceeded
from tidegate.service.fronts.shared import SharedTable


@pytest.fixture
def tables() -> list[SharedTable]:
    """The same table as two processes see it."""
    first = SharedTable.create(2)
    return [first, SharedTable(os.dup(first.descriptor), 2, 0)]


def test_a_rate_is_one_for_all_processes(tables: list[SharedTable]) -> None:
    quotas = [ClientQuota(lambda _: Quota(rate=1, burst=4), table) for table in tables]
    for index in range(4):
        quotas[index % 2].spend("a", 1, now=1000.0)

    for quota in quotas:
        with pytest.raises(QuotaExceeded):
            quota.spend("a", 1, now=1000.0)
        quota.spend("b", 1, now=1000.0)


def test_images_in_progress_count_in_all_processes(tables: list[SharedTable]) -> None:
    quotas = [ClientQuota(lambda _: Quota(0, 1, concurrent=3), table) for table in tables]

    with quotas[0].running("a", 2), quotas[1].running("a", 1), pytest.raises(QuotaExceeded):
        quotas[1].running("a", 1)
    with quotas[1].running("a", 3):
        pass


def test_a_process_that_has_ended_has_nothing_in_progress(tables: list[SharedTable]) -> None:
    quota = ClientQuota(lambda _: Quota(0, 1, concurrent=3), tables[0])
    ended = tables[1].run("a", 3)
    ended.__enter__()
    with pytest.raises(QuotaExceeded):
        quota.running("a", 1)

    tables[0].forget(0)

    with quota.running("a", 3):
        pass


def test_many_clients_do_not_share_a_quota(tables: list[SharedTable]) -> None:
    names = [f"client-{index}" for index in range(2000)]
    for index, name in enumerate(names):
        tables[index % 2].set_full_at(name, float(index + 1))

    wrong = sum(tables[0].full_at(name) != index + 1 for index, name in enumerate(names))

    assert wrong == 0
