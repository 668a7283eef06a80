"""A pool of processes that decode large images, for the threads of the service."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from queue import Empty, SimpleQueue

import numpy as np

from tidegate.service import errors
from tidegate.service.imaging.decoder_messages import PIXELS, REFUSED, SHAPE, receive, send
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

log = logging.getLogger(__name__)

_CHILD = "tidegate.service.imaging.decoder_process"
# To send an image and receive its pixels: far more than the limit on work allows, even on a very
# busy machine.
_TIMEOUT_S = 60.0
_START_TIMEOUT_S = 120.0
_END_TIMEOUT_S = 1.0
_BYTES_PER_PIXEL = 24  # upper limit while decoding, for any format and mode
_SPARE_BYTES = 256 << 20  # for uploads, codec tables, the interpreter
_REFUSALS: dict[str, type[errors.TidegateError]] = {
    kind.__name__: kind
    for kind in (errors.ImageTooLarge, errors.UnsupportedImageType, errors.UndecodableImage)
}


class _Process:
    """One process and the connection to it."""

    def __init__(self) -> None:
        """Start it. Raises OSError if the system does not allow that."""
        self.connection, its = socket.socketpair()
        # -P: do not import from the working directory.
        command = (sys.executable, "-P", "-m", _CHILD, str(its.fileno()))
        with its, contextlib.ExitStack() as undo:
            undo.callback(self.connection.close)
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                command,
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # codecs may print text that a client controls
            )
            undo.pop_all()

    @property
    def runs(self) -> bool:
        """Return whether the process is still running."""
        return self._process.poll() is None

    def prepare(self, settings: bytes) -> None:
        """Send the settings and wait until the process is ready. Raises OSError."""
        try:
            self.request([settings], _START_TIMEOUT_S)
        except (EOFError, ConnectionError) as error:
            raise OSError(f"a decoder process exited at its start: {self.end()}") from error

    def request(self, messages: Sequence[bytes], timeout_s: float) -> bytes:
        """Send messages and return the answer, within `timeout_s` for all.

        Raises EOFError or OSError, including TimeoutError; then the caller must end the process.
        """
        deadline = time.monotonic() + timeout_s
        for message in messages:
            send(self.connection, message, deadline)
        return receive(self.connection, deadline)

    def end(self) -> str:
        """End the process and return its exit status as text."""
        self.connection.close()
        try:
            status = self._process.wait(_END_TIMEOUT_S)  # it exits when its connection closes
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return f"signal {-status}" if status < 0 else f"exit status {status}"


class DecoderPool:
    """A fixed number of decoder processes; each serves one calling thread at a time."""

    def __init__(self, processes: int, max_image_pixels: int, *, at_once: bool = True) -> None:
        """Start the processes and wait until they are ready. Blocks for 1 to 2 s.

        If not `at_once`, each is started by the first image that needs it. Raises OSError if they
        cannot be started.
        """
        self.processes = processes
        self._settings = json.dumps(
            {
                "max_image_pixels": max_image_pixels,
                "memory_bytes": _BYTES_PER_PIXEL * max_image_pixels + _SPARE_BYTES,
            }
        ).encode()
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()  # None: must be restarted
        for process in _start(processes, self._settings) if at_once else [None] * processes:
            self._idle.put(process)

    def preprocess(self, data: bytes, spec: PreprocessSpec) -> Pixels:
        """Run `preprocess.preprocess` in one of the processes. Blocks the calling thread.

        Raises what that function raises, UndecodableImage if the process dies on the image, or
        Overloaded if no process runs and none can be started.
        """
        process = self._take()
        kept = None
        try:
            answer = process.request([spec.model_dump_json().encode(), data], _TIMEOUT_S)
            kept = process
        except (EOFError, OSError) as error:
            log.warning("a decoder process died on an image: %s (%s)", process.end(), error)
            raise errors.UndecodableImage("The decoder failed on this image.") from None
        finally:
            if kept is None:
                process.end()  # after any exception: its next answer could belong to this image
            self._idle.put(kept)
        return _pixels_of(answer)

    def _take(self) -> _Process:
        """Wait for an idle process; if it has died while idle, start another.

        The kernel's out-of-memory killer prefers these processes; that is not an image's fault.
        """
        process, taken = self._idle.get(), None
        try:
            if process is not None and not process.runs:
                log.warning("a decoder process died while idle: %s", process.end())
                process = None
            taken = process or _start(1, self._settings)[0]
        except OSError as error:
            log.warning("cannot start a decoder process: %s", error)
            raise errors.Overloaded("No decoder process can be started.", 1.0) from None
        finally:
            if taken is None:
                self._idle.put(None)
        return taken

    def close(self) -> None:
        """End the idle processes. A busy one ends after its image, or when the service exits."""
        with contextlib.suppress(Empty):
            while True:
                if process := self._idle.get_nowait():
                    process.end()


def _start(processes: int, settings: bytes) -> list[_Process]:
    """Start processes and wait until they are ready. If one fails, end all and raise OSError."""
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
    """Return the pixels of an answer, uint8 [H, W, 3], or raise the error that it contains."""
    kind, content = answer[:1], answer[1:]
    if kind == PIXELS:
        height, width = SHAPE.unpack_from(content)
        pixels = np.frombuffer(content, np.uint8, offset=SHAPE.size)
        return Pixels(pixels.reshape(height, width, 3))
    if kind == REFUSED:
        name, message = json.loads(content)
        raise _REFUSALS[name](message)
    raise RuntimeError(f"error in a decoder process: {content.decode()}")
