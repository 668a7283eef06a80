"""What watches a server while it is measured: a scraper of /metrics, and a collector of traces."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from load_tests.client.requests import Target
from load_tests.fuzz import wire
from load_tests.server.start import free_port, send_request

SCRAPE_EVERY_S = 1.0
_AS_PROMETHEUS = (
    b"Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
    b"Accept-Encoding: gzip",
)
_TIMEOUT_S = 10.0


@asynccontextmanager
async def scraped(target: Target) -> AsyncIterator[list[int]]:
    """Scrape a server every second as Prometheus does; yield the sizes of the answers."""
    sizes: list[int] = []

    async def scrape() -> None:
        request = wire.get(b"/metrics", _AS_PROMETHEUS)
        while True:
            response = await send_request(target, request, _TIMEOUT_S)
            sizes.append(len(response.body) if response and response.status == 200 else 0)
            await asyncio.sleep(SCRAPE_EVERY_S)

    scraping = asyncio.create_task(scrape())
    try:
        yield sizes
    finally:
        scraping.cancel()
        with suppress(asyncio.CancelledError):
            await scraping


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
