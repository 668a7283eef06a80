"""The processes that decode large images, as the threads of the service use them."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from queue import Empty, SimpleQueue

import numpy as np

from tidegate.service import errors
from tidegate.service.imaging.decoder_messages import PIXELS, REFUSED, SHAPE, receive, send
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

log = logging.getLogger(__name__)

_CHILD = "tidegate.service.imaging.decoder_process"
# To send an image and get its pixels: far beyond what the bound on work allows, on a machine that
# is very busy.
_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 1.0
_BYTES_PER_PIXEL = 24  # at most, of any format and mode, while it is decoded
_SPARE_BYTES = 256 << 20  # uploads, codecs' tables, the interpreter
_REFUSALS: dict[str, type[errors.TidegateError]] = {
    kind.__name__: kind
    for kind in (errors.ImageTooLarge, errors.UnsupportedImageType, errors.UndecodableImage)
}


class _Process:
    """One process and the connection to it."""

    def __init__(self) -> None:
        """Start it. Raises OSError when the system does not allow that."""
        self.connection, its = socket.socketpair()
        command = (sys.executable, "-P", "-m", _CHILD, str(its.fileno()))  # -P: not from here
        with its, contextlib.ExitStack() as undo:
            undo.callback(self.connection.close)
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # codecs print what a client chooses
            )
            undo.pop_all()

    @property
    def runs(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def prepare(self, settings: bytes) -> None:
        """Send the settings and wait until it is ready. Raises OSError."""
        try:
            self.ask(settings, _START_TIMEOUT_S)
        except (EOFError, ConnectionError) as error:
            raise OSError(f"a decoder process ended at its start: {self.end()}") from error

    def ask(self, message: bytes, timeout_s: float) -> bytes:
        """Send a message and return the answer, within `timeout_s` for both.

        Raises EOFError or OSError, TimeoutError included; then it must be ended.
        """
        deadline = time.monotonic() + timeout_s
        send(self.connection, message, deadline)
        return receive(self.connection, deadline)

    def end(self) -> str:
        """End the process and return how it ended."""
        self.connection.close()
        try:
            status = self._process.wait(_END_TIMEOUT_S)  # it ends by itself, or has crashed
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"


class DecoderPool:
    """A fixed number of decoder processes; each serves one calling thread at a time."""

    def __init__(self, processes: int, spec: PreprocessSpec, max_image_pixels: int) -> None:
        """Start the processes and wait until they are ready. Blocks for a second or two.

        Raises OSError when the system does not allow them.
        """
        self.processes = processes
        self._settings = json.dumps(
            {
                "spec": spec.model_dump(mode="json"),
                "max_image_pixels": max_image_pixels,
                "memory_bytes": _BYTES_PER_PIXEL * max_image_pixels + _SPARE_BYTES,
            }
        ).encode()
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()  # None: to be started again
        for process in _start(processes, self._settings):
            self._idle.put(process)

    def preprocess(self, data: bytes) -> Pixels:
        """Do what `preprocess.preprocess` does, in one of the processes. Blocks the thread.

        Raises what that raises, UndecodableImage if the process does not survive the image, or
        Overloaded if there is none and none can be started.
        """
        process = self._take()
        kept = None
        try:
            answer = process.ask(data, _TIMEOUT_S)
            kept = process
        except (EOFError, OSError) as error:
            log.warning("a decoder process ended on an image: %s (%s)", process.end(), error)
            raise errors.UndecodableImage("The decoder failed on this image.") from None
        finally:
            if kept is None:
                process.end()  # whatever was raised: the next answer could be this image's
            self._idle.put(kept)
        return _pixels_of(answer)

    def _take(self) -> _Process:
        """Wait for a process that is idle, and start another if it has ended meanwhile.

        The kernel's out-of-memory killer chooses these first, and no image is to blame for that.
        """
        process, taken = self._idle.get(), None
        try:
            if process is not None and not process.runs:
                log.warning("a decoder process ended while it was idle: %s", process.end())
                process = None
            taken = process or _start(1, self._settings)[0]
        except OSError as error:
            log.warning("no decoder process can be started: %s", error)
            raise errors.Overloaded("No decoder process can be started.", 1.0) from None
        finally:
            if taken is None:
                self._idle.put(None)
        return taken

    def close(self) -> None:
        """End the processes that are idle; one that decodes ends with its image, or with us."""
        with contextlib.suppress(Empty):
            while True:
                if process := self._idle.get_nowait():
                    process.end()


def _start(processes: int, settings: bytes) -> list[_Process]:
    """Return processes that are ready. Raises OSError, when one is not, and ends the others."""
    with contextlib.ExitStack() as undo:
        started = []
        for _ in range(processes):
            started.append(_Process())
            undo.callback(started[-1].end)
        for process in started:
            process.prepare(settings)
        undo.pop_all()
        return started


def _pixels_of(answer: bytes) -> Pixels:
    """Return the pixels of an answer, uint8 [H, W, 3], or raise what it says."""
    kind, content = answer[:1], answer[1:]
    if kind == PIXELS:
        height, width = SHAPE.unpack_from(content)
        pixels = np.frombuffer(content, np.uint8, offset=SHAPE.size)
        return Pixels(pixels.reshape(height, width, 3))
    if kind == REFUSED:
        name, message = json.loads(content)
        raise _REFUSALS[name](message)
    raise RuntimeError(f"in a decoder process: {content.decode()}")
