"""Hostile clients. They use a different loopback address from the normal clients."""

import asyncio
import time
from contextlib import suppress

from load_tests.client.connection import Connection, MalformedResponse, Response
from load_tests.client.requests import Target

ADDRESS = "127.0.0.2"
SOUND_ADDRESS = "127.0.0.1"  # of the normal clients: behind a proxy all have the same
_BLOCK = 1 << 16
_PIECE, _APART_S = 1 << 13, 0.001


async def send_request(
    target: Target, request: bytes, timeout_s: float, address: str = ADDRESS
) -> Response | None:
    """Send one request on a new connection; None if no usable answer arrives in time."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                Connection, target.host, target.port, local_addr=(address, 0)
            )
            return await connection.exchange(request)
    except (OSError, MalformedResponse):
        return None
    finally:
        if connection is not None:
            connection.close()


async def opened(
    target: Target, address: str = ADDRESS
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection; raises OSError."""
    return await asyncio.open_connection(target.host, target.port, local_addr=(address, 0))


async def flood(target: Target, first: bytes, block: bytes, most_bytes: int, most_s: float) -> int:
    """Send `first` and then `block` repeatedly, and read nothing.

    The pieces are small and sent separately, so that none is rejected for its length.
    Returns the number of bytes sent until the server closes, stops reading, or a limit is reached.
    """
    _, writer = await opened(target)
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # of the base class, not the stub's
    block *= max(1, _PIECE // len(block))
    end, sent = time.monotonic() + most_s, len(first)
    try:
        writer.write(first)
        while sent < most_bytes and (left := end - time.monotonic()) > 0:
            writer.write(block)
            await asyncio.wait_for(writer.drain(), left)
            await asyncio.sleep(_APART_S)
            sent += len(block)
    except OSError:  # closed, or TimeoutError: the server stopped reading
        pass
    finally:
        writer.transport.abort()
    return sent


async def upload(target: Target, request: bytes, timeout_s: float) -> bytes:
    """Send all of `request` before reading, as simple clients do, and return the answer.

    Raises OSError if the server disconnects before, TimeoutError if it takes too long.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await opened(target)
        try:
            for at in range(0, len(request), _BLOCK):
                writer.write(request[at : at + _BLOCK])
                await writer.drain()
            return await reader.read(_BLOCK)
        finally:
            writer.transport.abort()


async def stall(target: Target, unfinished: bytes) -> asyncio.StreamWriter | None:
    """Send an incomplete request and keep the connection; None if the server disconnects."""
    with suppress(OSError):
        _, writer = await opened(target)
        writer.write(unfinished)
        await writer.drain()
        return writer
    return None
