"""A process that decodes large images for the service: one image in, its pixels out, for ever.

It exists so that a large decode takes neither the interpreter lock nor much of a core from the
requests beside it, and so that a codec that crashes or runs out of memory takes no request but its
own along. It ends when the service does: at the end of file on its connection.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path

from tidegate.service import memory
from tidegate.service.errors import TidegateError
from tidegate.service.imaging.decode import bound_pillow
from tidegate.service.imaging.decoder_messages import BUG, PIXELS, REFUSED, SHAPE, receive, send
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec

_NICE = 10  # behind every thread of the service
_KILL_FIRST = "500"  # oom_score_adj: rather this process than the service


def main(descriptor: int) -> None:
    """Serve the connection on this file descriptor until it ends."""
    _step_back()
    connection = socket.socket(fileno=descriptor)
    with connection, contextlib.suppress(EOFError, OSError):
        settings = json.loads(receive(connection))
        spec = PreprocessSpec.model_validate(settings["spec"])
        _limit_memory(settings["memory_bytes"])
        bound_pillow(settings["max_image_pixels"])
        send(connection, PIXELS)  # ready
        while True:
            answer = _answer(receive(connection), spec, settings["max_image_pixels"])
            send(connection, answer)


def _answer(data: bytes, spec: PreprocessSpec, max_image_pixels: int) -> bytes:
    try:
        pixels = preprocess(data, spec, max_image_pixels)
    except TidegateError as error:
        return REFUSED + json.dumps([type(error).__name__, str(error)]).encode()
    except Exception as error:  # noqa: BLE001 - a bug, which the service reports as its own
        return BUG + f"{type(error).__name__}: {error}".encode()
    return PIXELS + SHAPE.pack(*pixels.shape[:2]) + pixels.tobytes()


def _step_back() -> None:
    """Yield to the service, and leave signals to it: a terminal or systemd sends them to all."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a sandbox may forbid either
        os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILL_FIRST)
    memory.give_back_large_blocks()


def _limit_memory(more_bytes: int) -> None:
    """Bound what this process may allocate, on top of what it has: then it gets a MemoryError."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])  # data and stack
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main(int(sys.argv[1]))
