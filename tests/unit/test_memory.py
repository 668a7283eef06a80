"""Memory settings, on machines that support them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tidegate.service import memory

SMAPS = Path("/proc/self/smaps")
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.lengthy
@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are used on Linux only")
@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text("ascii"), reason="this kernel gives none"
)
def test_large_allocations_are_marked_for_huge_pages() -> None:
    weights = np.ones(16 << 20, np.uint8)
    place = weights.ctypes.data + (4 << 20)

    memory.use_huge_pages()

    assert "hg" in flags_of(place)
    assert weights.sum() == len(weights)


def test_the_collector_leaves_out_what_exists_and_runs_rarely() -> None:
    script = """
import gc
from tidegate.service import memory
memory.collect_rarely()
runs = []
gc.callbacks.append(lambda phase, info: runs.append(phase))
kept = [[] for _ in range(4_000)]
print(gc.get_freeze_count() > 1_000, runs, gc.isenabled())
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout == "True [] True\n"


def test_memory_is_given_back_once_no_large_image_has_come_for_a_while() -> None:
    async def trimmed() -> list[float]:
        loop, times, done = asyncio.get_running_loop(), [], asyncio.Event()

        def trim() -> None:
            times.append(loop.time())
            loop.call_soon_threadsafe(done.set)

        when_quiet = memory.TrimWhenQuiet(quiet_s=0.05, trim=trim)
        when_quiet.note(peak_bytes=1 << 30)
        loop.call_later(0.04, when_quiet.note, 1 << 30)
        last = loop.time() + 0.04
        await asyncio.wait_for(done.wait(), timeout=30)
        return [at - last for at in times]

    (waited_s,) = asyncio.run(trimmed())

    assert waited_s >= 0.05


def flags_of(address: int) -> list[str]:
    """Return the kernel's flags of the mapping that contains `address`."""
    inside = False
    for line in SMAPS.read_text("ascii").splitlines():
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(match[1], 16) <= address < int(match[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("the mapping is gone")


def _host(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({}, None),
        (MACHINE, 8000 * 1024),
        (  # version 2: the parent's limit counts, and cached files can be freed
            MACHINE
            | {
                "proc/self/cgroup": "0::/system.slice/tidegate.service\n",
                "sys/fs/cgroup/system.slice/tidegate.service/memory.max": "max\n",
                "sys/fs/cgroup/system.slice/memory.max": "5000\n",
                "sys/fs/cgroup/system.slice/memory.current": "3000\n",
                "sys/fs/cgroup/system.slice/memory.stat": "anon 2000\ninactive_file 700\n",
            },
            2700,
        ),
        (  # version 1
            MACHINE
            | {
                "proc/self/cgroup": "5:memory:/docker/1\n4:cpu:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "5000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "6000\n",
            },
            0,
        ),
    ],
)
def test_the_available_memory_is_the_least_of_the_machine_and_its_groups(
    tmp_path: Path, files: dict[str, str], available: int | None
) -> None:
    assert memory.available_bytes(_host(tmp_path, files)) == available


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
@pytest.mark.parametrize(("environment", "most"), [({}, 2), ({"MALLOC_ARENA_MAX": "5"}, 5)])
def test_all_threads_share_a_limited_number_of_heaps(
    environment: dict[str, str], most: int
) -> None:
    allocate = """
import ctypes, threading
from tidegate.service import memory
memory.limit_arenas(2)
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
heaps, together = set(), threading.Barrier(20)
def use():
    heaps.add(libc.malloc(4096) >> 26)  # a heap of a thread is 64 MiB
    together.wait()
threads = [threading.Thread(target=use) for _ in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(heaps))
"""
    ran = subprocess.run(
        [sys.executable, "-c", allocate],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(ran.stdout) <= most


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux")
def test_the_blocks_of_a_version_are_apart_and_those_of_images_are_not() -> None:
    allocate = """
import ctypes
from tidegate.service import memory
class MallInfo(ctypes.Structure):
    _fields_ = [(f"field_{number}", ctypes.c_size_t) for number in range(10)]
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.mallinfo2.restype = MallInfo
def is_apart():
    before = libc.mallinfo2().field_3  # hblks, the number of mappings
    libc.malloc(2 << 20)
    return libc.mallinfo2().field_3 > before
memory.give_back_large_blocks()
with memory.blocks_apart():
    inside = is_apart()
print(inside, is_apart())
"""
    ran = subprocess.run(
        [sys.executable, "-c", allocate], capture_output=True, text=True, check=True
    )

    assert ran.stdout.split() == ["True", "False"]
