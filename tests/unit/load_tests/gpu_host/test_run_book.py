"""The run book for a GPU host, as far as it runs without one."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.server import DEMO_BUNDLE, ROOT

BOOK = ROOT / "load_tests/gpu_host"
SCRIPTS = sorted(BOOK.glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_valid(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_what_is_packed_is_pinned() -> None:
    pinned = (ROOT / "docker/constraints.txt").read_text().splitlines()
    (packages,) = re.findall(r'^packages="([^"]+)"', (BOOK / "pack.sh").read_text(), re.MULTILINE)

    missing = {*packages.split(), "onnxruntime-gpu"} - {line.split("==")[0] for line in pinned}
    assert missing == set()


@pytest.mark.process
def test_without_a_gpu_the_first_light_says_so() -> None:
    cudart = pytest.importorskip(
        "cuda.bindings.runtime", reason="cuda-bindings is for x86-64 Linux"
    )
    if cudart.cudaGetDeviceCount()[1]:
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, BOOK / "first_light.py", DEMO_BUNDLE / "model.onnx"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.startswith("There is no GPU to use: cudaGetDeviceCount")


def test_the_code_of_other_gpus_is_blanked_and_the_rest_kept() -> None:
    packing = import_module("load_tests.gpu_host.pack_onnxruntime")

    def kernel(kind: int, architecture: int, code: bytes) -> bytes:
        head = struct.pack("<HHIQ", kind, 0, 32, len(code)).ljust(28, b"\0")
        return head + struct.pack("<I", architecture) + code

    group = kernel(2, 80, b"a" * 64) + kernel(2, 90, b"b" * 64) + kernel(1, 90, b"c" * 64)
    library = elf(b".nv_fatbin", struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(group)) + group)
    before = bytes(library)

    assert packing.keep_only(library, 90) == 64
    assert bytes(library) == before.replace(b"a" * 64, bytes(64)).replace(b"c" * 64, bytes(64))
    with pytest.raises(SystemExit, match="sm_100"):
        packing.keep_only(library, 100)


def elf(name: bytes, content: bytes) -> bytearray:
    """Return a 64-bit ELF file with a section of this name, and one of the sections' names."""
    names = b"\0" + name + b"\0"
    table = 64 + len(content) + len(names)
    header = bytearray(64)
    struct.pack_into("<Q", header, 0x28, table)
    struct.pack_into("<HHH", header, 0x3A, 64, 2, 1)
    sections = [(1, 64, len(content)), (0, 64 + len(content), len(names))]
    entries = [
        struct.pack("<IIQQQQ", at, 0, 0, 0, start, size).ljust(64, b"\0")
        for at, start, size in sections
    ]
    return bytearray(bytes(header) + content + names + b"".join(entries))
