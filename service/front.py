"""The composition root of a front end: a process that answers HTTP and leaves the engine to
another.

    python -m tidegate.service.front RECORDS MESSAGES HANDOVER

The arguments are descriptors of sockets, whose other ends the process of the engine has. A front
end ends when they are closed, and ignores the signals that only that process handles.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

import uvloop

from tidegate.service import memory
from tidegate.service.cpu import lower_priority
from tidegate.service.fronts.child import EXIT_LOST, LAST_S

_NICE = 3  # lower priority than the process of the engine; the decoders' is lower still
_POLL_S = 0.25


def _watch_parent() -> None:
    """End this process soon after the one that started it, even if the event loop hangs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        time.sleep(LAST_S)
        os._exit(EXIT_LOST)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()


def main(descriptors: list[int]) -> NoReturn:
    """Serve on the sockets with these descriptors, and end the process."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # a terminal or systemd sends them to all processes
    faulthandler.register(signal.SIGUSR1, sys.stderr, all_threads=True)
    _watch_parent()
    # After that, because the imports take most of the time until it serves.
    from tidegate.service.fronts.front_end import FrontEnd  # noqa: PLC0415

    lower_priority(_NICE)
    memory.give_back_large_blocks()
    memory.limit_arenas(2)
    records, messages, turnover = (socket.socket(fileno=number) for number in descriptors)
    for one in (records, messages, turnover):
        one.setblocking(False)

    async def run() -> int:
        return await FrontEnd(turnover).run(records, messages)

    with asyncio.Runner(loop_factory=uvloop.Loop) as runner:
        code = runner.run(run())
        logging.shutdown()
        os._exit(code)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
