"""Threads with an owner: a thread that ends unexpectedly is reported to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


def start_owned(
    target: Callable[[], None], name: str, on_death: Callable[[str], object]
) -> threading.Thread:
    """Start a daemon thread that runs `target` and return it.

    `target` returns after its owner has stopped it. If it raises, the error is logged, and
    `on_death` is called on that thread with the reason (a sentence without a full stop). The thread
    is a daemon, so that a hung codec or engine cannot prevent the process from exiting.
    """

    def run() -> None:
        try:
            target()
        except BaseException as error:  # the owner must learn of every unexpected end
            log.critical("thread %s ended unexpectedly", name, exc_info=error)
            on_death(f"thread {name} ended unexpectedly: {type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
