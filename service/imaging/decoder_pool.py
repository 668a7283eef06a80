"""The processes that decode large images, as the threads of the service use them."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from service import errors
from service.imaging.spec import PreprocessSpec
from service.types import Pixels

log = logging.getLogger(__name__)

PIXELS, REFUSED, BUG = b"P", b"R", b"B"  # the first byte of an answer
SHAPE = struct.Struct("<II")  # height and width, before uint8 [height, width, 3]
_PACKAGES = Path(__file__).parents[2]  # the folder the service's package is in
_TIMEOUT_S = 60.0  # far beyond what the bound on work allows, on a machine that is very busy
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

    def __init__(self, settings: bytes) -> None:
        """Start it. Raises OSError when it cannot be started."""
        ours, its = multiprocessing.Pipe()
        path = os.pathsep.join([str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
        with its:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "service.imaging.decoder_process", str(its.fileno())],
                pass_fds=[its.fileno()],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # codecs print what a client chooses
            )
        self.connection: Connection = ours
        self.connection.send_bytes(settings)

    def ask(self, data: bytes, timeout_s: float) -> bytes:
        """Send bytes and return the answer. Raises EOFError, OSError or TimeoutError."""
        self.connection.send_bytes(data)
        return self.receive(timeout_s)

    def receive(self, timeout_s: float) -> bytes:
        """Return the next answer. Raises EOFError, OSError or TimeoutError."""
        if not self.connection.poll(timeout_s):
            raise TimeoutError
        return self.connection.recv_bytes()

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
        for process in [_Process(self._settings) for _ in range(processes)]:
            process.receive(_START_TIMEOUT_S)
            self._idle.put(process)

    def preprocess(self, data: bytes) -> Pixels:
        """Do what `preprocess.preprocess` does, in one of the processes. Blocks the thread.

        Raises what that raises, UndecodableImage if the process does not survive the image, or
        Overloaded if there is none and none can be started.
        """
        process = self._idle.get()
        try:
            if process is None:
                process = _Process(self._settings)
                process.receive(_START_TIMEOUT_S)
            answer = process.ask(data, _TIMEOUT_S)
        except (EOFError, OSError) as error:  # TimeoutError is an OSError
            if process is None:
                log.warning("cannot start a decoder process: %s", error)
                raise errors.Overloaded("No decoder process can be started.", 1.0) from None
            log.warning("a decoder process ended on an image: %s", process.end())
            process = None
            raise errors.UndecodableImage("The decoder failed on this image.") from None
        finally:
            self._idle.put(process)
        return _pixels_of(answer)

    def close(self) -> None:
        """End the processes that are idle; one that decodes ends with its image, or with us."""
        with contextlib.suppress(Empty):
            while True:
                if process := self._idle.get_nowait():
                    process.end()


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
