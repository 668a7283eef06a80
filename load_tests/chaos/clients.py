"""Scenarios of clients that use HTTP in a hostile or unusual way."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress

from load_tests.chaos.hostile_client import flood, stall, upload
from load_tests.chaos.setting import (
    ANSWER_S,
    GROWTH_MB,
    Outcome,
    Server,
    Setting,
    good_traffic,
    served,
)
from load_tests.fuzz import wire
from load_tests.fuzz.conversation import converse
from load_tests.fuzz.http_seeds import CLASSIFY, FEEDBACK, http_seeds
from load_tests.fuzz.seeds import good_image
from load_tests.fuzz.server import good_request

_MIB = 1 << 20
_STALLED = 33
_UPLOADS = 20
_FLOOD_S = 10.0
_SAMPLE_S = 0.05


async def stalled_uploads(setting: Setting) -> Outcome:
    """33 uploads stop before their last byte; together they would fill the upload budget."""
    size = 4 * _MIB
    env = {
        "TIDEGATE_MAX_UPLOAD_BYTES": str(size),
        "TIDEGATE_MAX_INFLIGHT_BYTES": str(32 * size),
    }
    unfinished = wire.request(CLASSIFY, bytes(size))[:-1]
    async with served(setting, env) as server:
        stalled = await asyncio.gather(*(stall(server.target, unfinished) for _ in range(_STALLED)))
        traffic = await good_traffic(server, 10, setting.seconds)
        for writer in stalled:
            if writer is not None:
                writer.transport.abort()
    return Outcome(str(traffic), traffic.goodput >= 0.95)


async def pipelined_gets(setting: Setting) -> Outcome:
    """One connection sends GETs and reads no answer."""
    async with served(setting) as server:
        request = wire.get(b"/livez")
        sending = flood(server.target, b"", request, 300_000 * len(request), _FLOOD_S)
        return await _bounded(server, sending)


async def pipelined_posts(setting: Setting) -> Outcome:
    """12 connections send one image after another and read no answer."""
    async with served(setting) as server:
        block = wire.request(CLASSIFY, bytes(_MIB))
        floods = [flood(server.target, b"", block, 96 * _MIB, _FLOOD_S) for _ in range(12)]
        return await _bounded(server, asyncio.gather(*floods), 2 * GROWTH_MB)


async def endless_trailers(setting: Setting) -> Outcome:
    """A chunked body whose trailers do not end."""
    async with served(setting) as server:
        body = wire.chunked(CLASSIFY, good_image(), 1 << 16)[:-2]
        return await _bounded(server, flood(server.target, body, b"a:\r\n", 50 * _MIB, _FLOOD_S))


async def large_feedback(setting: Setting) -> Outcome:
    """100 MB of JSON; probes are answered at the same time."""
    lists = b"[" + b"[1]," * (25 * _MIB) + b"0]"
    request = wire.request(FEEDBACK, lists, b"application/json")
    with tempfile.TemporaryDirectory() as folder:
        return await _large_feedback(setting, request, {"TIDEGATE_REVIEW_DIR": folder})


async def _large_feedback(setting: Setting, request: bytes, env: Mapping[str, str]) -> Outcome:
    async with served(setting, env) as server:
        slowest = 0.0
        sending = asyncio.create_task(_uploaded(server, request))
        before, peak = server.memory.resident_mb(), 0.0
        while not sending.done():
            begun = time.monotonic()
            await server.get(b"/livez", 60)
            slowest = max(slowest, time.monotonic() - begun)
            peak = max(peak, server.memory.resident_mb() - before)
            await asyncio.sleep(_SAMPLE_S)
    answer = sending.result()[9:12].decode("ascii", "replace") or "disconnected"
    seen = f"{answer}, +{peak:.0f} MB, slowest probe {slowest:.2f} s"
    return Outcome(seen, peak < GROWTH_MB and slowest < 1.0 and answer in ("400", "413"))


async def upgrades(setting: Setting) -> Outcome:
    """An upgrade to h2c or WebSocket is ignored, and the body is not parsed as a request."""
    wrong = []
    seeds = [seed for seed in http_seeds() if seed.name.startswith(("h2c", "websocket"))]
    async with served(setting) as server:
        for seed in seeds:
            talk = await converse(server.target, seed.data, ANSWER_S, expected=1)
            statuses = tuple(answer.status for answer in talk.answers)
            if statuses != seed.statuses:
                wrong.append(f"{seed.name} {statuses}, expected {seed.statuses}")
    return Outcome("; ".join(wrong) or f"{len(seeds)} answered once", not wrong)


async def half_close(setting: Setting) -> Outcome:
    """A client that closes its side after the request receives its answer."""
    async with served(setting) as server:
        reader, writer = await asyncio.open_connection(server.target.host, server.target.port)
        writer.write(good_request())
        writer.write_eof()
        answer = b""
        with suppress(OSError):
            answer = await asyncio.wait_for(reader.read(_MIB), ANSWER_S)
        writer.transport.abort()
    return Outcome(answer[:15].decode("ascii", "replace") or "no answer", b" 200 " in answer[:15])


async def refused_uploads(setting: Setting) -> Outcome:
    """Uploads of 12 MB with a limit of 1 MB, by clients that read only after sending everything."""
    body = wire.request(CLASSIFY, bytes(12 * _MIB), headers=[b"Connection: close"])
    async with served(setting, {"TIDEGATE_MAX_UPLOAD_BYTES": str(_MIB)}) as server:
        answers = [await _uploaded(server, body) for _ in range(_UPLOADS)]
    refused = sum(answer[9:12] == b"413" for answer in answers)
    return Outcome(f"{refused} of {_UPLOADS} read their 413", refused == _UPLOADS)


async def _uploaded(server: Server, request: bytes) -> bytes:
    try:
        return await upload(server.target, request, 120)
    except OSError:
        return b""


async def _bounded(
    server: Server, sending: Awaitable[object], allowed_mb: float = GROWTH_MB
) -> Outcome:
    """Measure memory while a client sends; a normal client must be answered afterwards."""
    before, peak = server.memory.resident_mb(), 0.0
    task = asyncio.ensure_future(sending)
    while not task.done():
        await asyncio.wait([task], timeout=_SAMPLE_S)
        peak = max(peak, server.memory.resident_mb() - before)
    status = await server.good()
    return Outcome(f"+{peak:.0f} MB, then {status}", peak < allowed_mb and status == 200)
