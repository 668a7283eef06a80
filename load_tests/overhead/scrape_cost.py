"""What watches a server while it is measured: a scraper of /metrics, and a collector of traces."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from statistics import median

from load_tests.client.requests import Target, shuffled_forever
from load_tests.errors import MeasurementFailed
from load_tests.fuzz import wire
from load_tests.server.start import free_port, send_request
from load_tests.server.usage import usage

SCRAPE_EVERY_S = 1.0
_SCRAPES = 20  # whose cost is measured
_AS_PROMETHEUS = (
    b"Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    b"Accept-Encoding: gzip",
)
_TIMEOUT_S = 10.0


@asynccontextmanager
async def scraped(target: Target) -> AsyncIterator[list[int]]:
    """Scrape a server every second as Prometheus does; yield the sizes of the answers."""
    sizes: list[int] = []

    async def scrape_for_ever() -> None:
        while True:
            sizes.append(await _scrape(target))
            await asyncio.sleep(SCRAPE_EVERY_S)

    scraping = asyncio.create_task(scrape_for_ever())
    try:
        yield sizes
    finally:
        scraping.cancel()
        with suppress(asyncio.CancelledError):
            await scraping


@dataclass(frozen=True)
class ScrapeCost:
    """Medians over several scrapes of a server that does nothing else."""

    cpu_ms: float  # of all threads of its processes
    duration_ms: float  # until the client has the last byte


async def scrape_cost(
    target: Target, pid: int, requests: Sequence[bytes], images: int
) -> ScrapeCost:
    """Scrape a server again and again, each time after this many images have been answered.

    So as many series have changed as in operation. `pid` is the server's main process.
    Raises MeasurementFailed if a scrape is not answered.
    """
    costs = []
    order = shuffled_forever(requests, seed=0)
    for _ in range(_SCRAPES):
        await _answer(target, islice(order, images))
        before, started = usage(pid), time.perf_counter()
        if not await _scrape(target):
            raise MeasurementFailed("a scrape was not answered")
        duration_s = time.perf_counter() - started
        costs.append((usage(pid).since(before).cpu_s, duration_s))
    cpu_s, duration_s = (median(values) for values in zip(*costs, strict=True))
    return ScrapeCost(1e3 * cpu_s, 1e3 * duration_s)


async def _answer(target: Target, requests: Iterable[bytes]) -> None:
    for request in requests:
        await send_request(target, request, _TIMEOUT_S)


async def _scrape(target: Target) -> int:
    """Return the size of the answer; 0 if there was none."""
    response = await send_request(target, wire.get(b"/metrics", _AS_PROMETHEUS), _TIMEOUT_S)
    return len(response.body) if response and response.status == 200 else 0


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[int]]]:
    """Run a collector that accepts all traces; yield its URL and the sizes of what it got."""
    sizes: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                sizes.append(len(await reader.readexactly(length)))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()
        writer.close()

    port = free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}", sizes
    finally:
        server.close()
