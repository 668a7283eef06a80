"""Compile the stand-ins, with a function for every name that ONNX Runtime's CUDA provider needs."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent
# Of each library: the file's name, and the names of its functions. In the order of loading.
_LIBRARIES = {
    "libcudart.so.13": r"_*cuda[A-Z]\w*",
    "libcublasLt.so.13": r"cublasLt\w+",
    "libcublas.so.13": r"cublas(?!Lt)\w+",
    "libcurand.so.10": r"curand\w+",
    "libcuda.so.1": r"cu[A-Z]\w+",
    "libcudnn.so.9": r"cudnn[A-Z]\w+",
}
LIBRARIES = tuple(_LIBRARIES)


def missing() -> str:
    """Return what the stand-ins need and this machine lacks; empty if it has everything."""
    if shutil.which("cc") is None or shutil.which("nm") is None:
        return "a C compiler and nm (build-essential) are not installed"
    if _provider() is None:
        return "onnxruntime-gpu is not installed"
    return ""


def build(folder: Path) -> Path:
    """Compile all stand-ins into `folder` and return it."""
    provider = _provider()
    if provider is None:
        raise FileNotFoundError("onnxruntime-gpu is not installed")
    needed = _linked(provider) | _loaded_by_name(provider)
    for library, functions in _LIBRARIES.items():
        _compile(folder, library, {name for name in needed if re.fullmatch(functions, name)})
    return folder


def _provider() -> Path | None:
    # Found, not imported: the tests' process must not load the runtime.
    package = importlib.util.find_spec("onnxruntime")
    if package is None or package.origin is None:
        return None
    path = Path(package.origin).parent / "capi/libonnxruntime_providers_cuda.so"
    return path if path.exists() else None


def _linked(provider: Path) -> set[str]:
    """Return the functions that the dynamic linker resolves."""
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True
    )
    return {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}


def _loaded_by_name(provider: Path) -> set[str]:
    """Return cuDNN's functions, which the provider looks up by name."""
    return {
        name.decode() for name in re.findall(rb"\0(cudnn[A-Z]\w+)(?=\0)", provider.read_bytes())
    }


def _compile(folder: Path, library: str, needed: set[str]) -> None:
    written = _HERE / f"{library.partition('.')[0]}.c"
    source = written.read_text() if written.exists() else ""
    rest = folder / f"{library}.rest.c"
    rest.write_text(
        "".join(_success(name) for name in sorted(needed) if not re.search(rf"\b{name}\(", source))
    )
    versions = folder / f"{library}.map"
    versions.write_text(f"{library} {{ global: *; }};\n")
    subprocess.run(
        [
            *("cc", "-O1", "-w", "-shared", "-fPIC", "-pthread", f"-Wl,-soname,{library}"),
            *(f"-Wl,--version-script={versions}", "-o", folder / library, rest),
            *([written] if source else []),
        ],
        check=True,
    )


def _success(name: str) -> str:
    """Return C code of a function that does nothing; if it creates something, that is a handle."""
    if "Create" in name:
        return f"int {name}(void **made) {{ static long one; *made = &one; return 0; }}\n"
    return f"int {name}(void) {{ return 0; }}\n"
