"""Images that cannot be decoded leave no memory allocated."""

from __future__ import annotations

import io
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tests.server import PATIENCE_S, Server, running

IMAGES = 40
MIB = 1 << 20


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text("ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def cut_short(format: str) -> bytes:
    """Return the first half of a photograph-like image of six megapixels."""
    row = np.arange(3000, dtype=np.uint16) % 251
    pixels = (row[None, :, None] + np.arange(2000)[:, None, None]) % 256 + np.zeros((1, 1, 3))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, format)
    return file.getvalue()[: len(file.getvalue()) // 2]


def test_the_memory_of_40_large_images_that_fail_is_released(small_bundle: Path) -> None:
    """A reference cycle through the error once kept the pixels: 95 MB for 25 megapixels."""
    with (
        running(small_bundle) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        bodies = [cut_short("JPEG"), cut_short("PNG")]

        def send(count: int) -> set[int]:
            return {
                client.post("/classify", content=bodies[index % 2]).status_code
                for index in range(count)
            }

        send(20)  # codecs and allocators fill their caches
        before = resident_bytes(server)

        assert send(IMAGES) == {422}

        assert resident_bytes(server) - before < 64 * MIB
