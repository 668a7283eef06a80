"""Where the CPU time of an event loop goes, by part of the service: samples of py-spy, summed up.

A sample is one stack of the main thread. It counts for the part of the innermost function that
belongs to one, so that what a part calls in a library is the part's.
"""

import asyncio
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from load_tests.errors import MeasurementFailed

_RATE = 500  # samples per second
_OTHER = "event loop"
_MAIN = "MainThread"
# By the ends of the files' paths, the first match decides.
_PARTS = (
    ("access log", ("/api/access_log.py", "/service/logs.py", "/logging/__init__.py")),
    ("drift monitors", ("/service/drift/",)),
    ("metrics", ("/prometheus_client/", "/service/metrics/")),
    ("softmax and best classes", ("/service/deciding.py",)),
    ("gate", ("/service/ood/",)),
    ("feedback and statistics", ("/service/review/", "/service/observing.py")),
    ("admission, queue, batches", ("/service/batching/",)),
    ("notes to and from front ends", ("/service/fronts/",)),
    ("headers and size of the image", ("/service/imaging/",)),
    ("writing to and reading from sockets", ("/uvicorn/", "/api/protocol.py", "/api/parser.py")),
    ("request and answer", ("/service/api/", "/starlette/", "/anyio/")),
    ("pipeline", ("/service/pipeline.py", "/service/catalog.py", "/service/lifecycle.py")),
)
_FRAME = re.compile(r"\(([^()]+):\d+\)$")


async def profiled(pid: int, seconds: float, load: Callable[[], Awaitable[None]]) -> str:
    """Return py-spy's stacks of a process, one a line, while `load` runs for `seconds`.

    Raises MeasurementFailed if py-spy is missing or may not read the process.
    """
    program = shutil.which("py-spy")
    if program is None:
        raise MeasurementFailed("a profile needs py-spy: pip install py-spy")
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        file = Path(folder) / "stacks"
        options = ["--format", "raw", "--threads", "--full-filenames", "--rate", str(_RATE)]
        options += ["--duration", f"{seconds:.0f}", "--output", str(file), "--pid", str(pid)]
        process = await asyncio.create_subprocess_exec(
            program,
            "record",
            *options,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        await load()
        _, errors = await process.communicate()
        if process.returncode or not file.exists():
            raise MeasurementFailed(f"py-spy: {errors.decode(errors='replace').strip()}")
        return file.read_text(encoding="utf-8")


def shares(stacks: str) -> dict[str, float]:
    """Return the part of the main thread's samples that each part of the service has."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if _MAIN in thread:
            found[_part_of(frames)] += int(count)
    total = found.total()
    return {part: count / total for part, count in found.most_common()}


def _part_of(frames: list[str]) -> str:
    for frame in reversed(frames):
        if (file := _FRAME.search(frame)) is None:
            continue
        for part, paths in _PARTS:
            if any(path in file[1] for path in paths):
                return part
    return _OTHER
