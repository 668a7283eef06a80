"""Cut ONNX Runtime's wheel down to one GPU generation, for a host that receives 64 MiB at a time.

The CUDA provider's machine code for other generations is overwritten with zeros, which compress to
nothing; sizes and offsets stay. Usage: pack_onnxruntime.py WHEEL ARCHITECTURE OUT.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

_PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
_UNUSED = ("libonnxruntime_providers_tensorrt.so", "capi/libonnxruntime.so.")
_MAGIC = 0xBA55ED50  # of a group of kernels, in the section .nv_fatbin
_MACHINE_CODE = 2


def main() -> None:
    """Write every file of the wheel to OUT, compressed."""
    wheel, architecture, out = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            if name.endswith("/") or any(unused in name for unused in _UNUSED):
                continue
            content = bytearray(files.read(name))
            if name == _PROVIDER:
                kept = keep_only(content, architecture)
                digest = hashlib.sha256(content).hexdigest()
                print(f"kept {kept >> 20} MiB for sm_{architecture}; sha256 {digest}")
            target = out / f"{name}.xz"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(lzma.compress(content, preset=6))


def keep_only(library: bytearray, architecture: int) -> int:
    """Blank all kernels but the machine code of `architecture`; return the bytes that are kept."""
    kept = 0
    start, size = _section(library, b".nv_fatbin")
    for kind, of, at, length in _kernels(library, start, start + size):
        if kind == _MACHINE_CODE and of == architecture:
            kept += length
        else:
            library[at : at + length] = bytes(length)
    if not kept:
        sys.exit(f"the wheel has no machine code for sm_{architecture}")
    return kept


def _kernels(library: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (kind, architecture, offset, length) of every payload of the groups in a section."""
    while at + 16 <= end:
        magic, _, header, body = struct.unpack_from("<IHHQ", library, at)
        if magic != _MAGIC:
            at += 8  # between two groups
            continue
        entry, at = at + header, at + header + body
        while entry + 32 <= at:
            kind, _, head, length = struct.unpack_from("<HHIQ", library, entry)
            if not 32 <= head <= 4096:
                break  # padding
            (of,) = struct.unpack_from("<I", library, entry + 28)
            yield kind, of, entry + head, length
            entry += head + length


def _section(library: bytearray, wanted: bytes) -> tuple[int, int]:
    """Return (offset, size) of a section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", library, 0x28)
    entry, count, names = struct.unpack_from("<HHH", library, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", library, table + i * entry) for i in range(count)]
    for name, _, _, _, offset, size in sections:
        at = sections[names][4] + name
        if library[at : library.index(b"\0", at)] == wanted:
            return offset, size
    sys.exit(f"the library has no section {wanted.decode()}")


if __name__ == "__main__":
    main()
