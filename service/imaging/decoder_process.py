"""A process that decodes large images for the service, one at a time.

In its own process, a large decode does not block other requests with the interpreter lock and
yields its core to them, and a codec that crashes or runs out of memory fails only its own request.
The process exits when its connection is closed, so also when the service exits.
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

_NICE = 10  # lower priority than every thread of the service
_KILL_FIRST = "500"  # oom_score_adj: the kernel kills this process before the service


def main(descriptor: int) -> None:
    """Serve the connection on this file descriptor until it is closed."""
    _step_back()
    connection = socket.socket(fileno=descriptor)
    with connection, contextlib.suppress(EOFError, OSError):
        settings = json.loads(receive(connection))
        _limit_memory(settings["memory_bytes"])
        bound_pillow(settings["max_image_pixels"])
        send(connection, PIXELS)  # ready
        while True:
            spec = PreprocessSpec.model_validate_json(receive(connection))
            answer = _answer(receive(connection), spec, settings["max_image_pixels"])
            send(connection, answer)
            del answer
            memory.give_back_free_memory()  # large images are rare, and this process is long-lived


def _answer(data: bytes, spec: PreprocessSpec, max_image_pixels: int) -> bytes:
    try:
        pixels = preprocess(data, spec, max_image_pixels)
    except TidegateError as error:
        return REFUSED + json.dumps([type(error).__name__, str(error)]).encode()
    except Exception as error:  # noqa: BLE001 - a bug, which the service reports
        return BUG + f"{type(error).__name__}: {error}".encode()
    return PIXELS + SHAPE.pack(*pixels.shape[:2]) + pixels.tobytes()


def _step_back() -> None:
    """Lower this process's priority, and ignore the signals that only the service handles.

    A terminal or systemd sends them to every process of the group.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # a sandbox may forbid this and the next call
        os.nice(_NICE)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILL_FIRST)
    memory.give_back_large_blocks()


def _limit_memory(more_bytes: int) -> None:
    """Limit further allocations of this process to `more_bytes`; beyond it raises MemoryError."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[5])  # data and stack
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main(int(sys.argv[1]))
