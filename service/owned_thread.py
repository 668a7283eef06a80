"""Threads that have an owner: one that ends unasked is reported, never lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def start_owned(
    target: Callable[[], None], name: str, on_death: Callable[[str], object]
) -> threading.Thread:
    """Start a daemon thread that runs `target` and return it.

    `target` returns when its owner asks it to stop. If it raises instead, the error is logged and
    `on_death` is called on the dying thread with the reason, a sentence without a full stop. The
    thread is a daemon, so that a wedged codec or engine cannot keep the process from exiting.
    """

    def run() -> None:
        try:
            target()
        except BaseException as error:  # whatever ends the thread, its owner must know
            log.critical("thread %s ended unexpectedly", name, exc_info=error)
            on_death(f"thread {name} ended unexpectedly: {type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
