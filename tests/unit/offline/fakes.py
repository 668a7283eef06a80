"""Fakes of a predictor, in a module that worker processes import quickly."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

from tidegate.service.offline.answers import Answer, Problem


class FakePredictor:
    """Says of an image what its bytes say; "kill" ends the process, and "hang" never returns."""

    max_image_bytes = 100
    batch_size = 4

    def predict(self, images: Sequence[bytes], *, top_k: int) -> list[Answer | Problem]:
        if b"kill" in images:
            os._exit(9)
        if b"hang" in images:
            threading.Event().wait()
        return [Problem(image.decode(), "", 422, f"top {top_k}") for image in images]


class FakeThatNeverStarts(FakePredictor):
    """Ends every process that gets it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _ended, ()


def _ended() -> FakePredictor:
    os._exit(9)


class FakeThatIsInterrupted(FakePredictor):
    """Gets Ctrl-C in the process that classifies, before that is ready."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _interrupted, ()


def _interrupted() -> FakePredictor:
    os.kill(os.getpid(), signal.SIGINT)
    return FakePredictor()
