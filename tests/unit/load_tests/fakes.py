"""A fake server for load tests: real sockets, canned replies."""

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field


def response(body: bytes, status: int = 200, headers: bytes = b"") -> bytes:
    """Return a whole response; `headers` are lines, each with its CRLF."""
    return b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(body), body)


REQUEST = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nimage"
OK = response(b"{}")
OVERLOADED = response(
    b'{"type": "https://tidegate.dev/problems/overloaded", "status": 503}',
    503,
    b"Retry-After: 2\r\nContent-Type: application/problem+json\r\n",
)


@dataclass
class FakeServer:
    """Reads whole requests, waits until its gate is open, and sends `replies` in turn.

    An empty reply disconnects instead. With `trickle` each byte is a separate packet.
    A GET is answered with `page`, or 404 without one.
    """

    replies: list[bytes]
    trickle: bool = False
    silent_until: int = 0  # requests that must have arrived before the first is answered
    page: bytes | None = None
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        self._next = itertools.cycle(self.replies)
        if not self.silent_until:
            self.gate.set()

    def stall(self, seconds: float) -> None:
        self.gate.clear()
        asyncio.get_running_loop().call_later(seconds, self.gate.set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await _read_head(reader):
                if head.startswith(b"GET"):
                    await self._write(writer, response(self.page or b"", 200 if self.page else 404))
                    continue
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                if len(self.bodies) == self.silent_until:
                    self.gate.set()
                await self.gate.wait()
                if not (reply := next(self._next)):
                    break  # disconnect
                await self._write(writer, reply)
                if b"connection: close" in reply.lower():
                    break
        except ConnectionError:
            pass  # the client disconnected first
        finally:
            writer.close()

    async def _write(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        step = 1 if self.trickle else len(reply)
        for i in range(0, len(reply), step):
            writer.write(reply[i : i + step])
            await asyncio.sleep(0)  # lets the packet leave and be read on its own


async def _read_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@asynccontextmanager
async def listening(fake: FakeServer) -> AsyncIterator[int]:
    """Serve on a free loopback port and yield it."""
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        fake.gate.set()
        server.close()
        await server.wait_closed()


@contextmanager
def served(fake: FakeServer) -> Iterator[str]:
    """Serve from a separate thread, for commands with their own event loop; yields a URL."""
    ready: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        end = asyncio.Event()
        async with listening(fake) as port:
            ready.put((port, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, loop, end = ready.get(timeout=30)
    try:
        yield f"http://127.0.0.1:{port}/classify"
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
