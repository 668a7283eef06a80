"""The protocol between the service and its decoder processes: messages of bytes over a socket."""

from __future__ import annotations

import socket
import struct
import time

PIXELS, REFUSED, BUG = b"P", b"R", b"B"  # the first byte of an answer
SHAPE = struct.Struct("<II")  # height and width, before uint8 [height, width, 3]
_LENGTH = struct.Struct("<Q")  # before each message


def send(connection: socket.socket, message: bytes, deadline: float | None = None) -> None:
    """Send a message. `deadline` is on time.monotonic; None waits without limit.

    Raises OSError: TimeoutError at the deadline, BrokenPipeError if the other side has ended.
    """
    for part in (_LENGTH.pack(len(message)), message):
        connection.settimeout(_left_s(deadline))
        connection.sendall(part)  # the timeout covers the whole part


def receive(connection: socket.socket, deadline: float | None = None) -> bytes:
    """Return the next message. Raises OSError as `send` does, and EOFError."""
    (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size, deadline))
    return _receive(connection, length, deadline)


def _receive(connection: socket.socket, size: int, deadline: float | None) -> bytes:
    content = bytearray(size)
    room = memoryview(content)
    while room:
        connection.settimeout(_left_s(deadline))
        received = connection.recv_into(room)
        if not received:
            raise EOFError("the connection was closed")
        room = room[received:]
    return bytes(content)


def _left_s(deadline: float | None) -> float | None:
    # A socket's timeout of 0 means non-blocking, and a negative one is an error.
    return None if deadline is None else max(0.001, deadline - time.monotonic())
