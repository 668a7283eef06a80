from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import pytest

from tidegate.service.api.dialects.v2.rpc.start import rpc_dialect, start_rpc
from tidegate.service.errors import SettingsInvalid

NOTHING: Any = cast("Any", None)


def test_without_the_extra_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)

    with pytest.raises(SettingsInvalid, match=r'no module grpc: pip install "tidegate\[grpc\]"'):
        rpc_dialect(NOTHING)


def test_without_an_address_it_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="TIDEGATE_HOST is none"):
        asyncio.run(start_rpc(NOTHING, NOTHING, NOTHING, (), 8001, NOTHING, 1))


def test_without_a_port_nothing_is_started() -> None:
    async def start_and_stop() -> None:
        stop = await start_rpc(NOTHING, NOTHING, NOTHING, ("127.0.0.1",), None, NOTHING, 1)
        await stop(1)

    asyncio.run(start_and_stop())
