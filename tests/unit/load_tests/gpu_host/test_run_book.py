"""The run book for a GPU host, as far as it runs without one."""

from __future__ import annotations

import ast
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from docs.tables.commands import parsers
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


def test_the_commands_of_the_scripts_are_those_of_the_product() -> None:
    known = {name.removeprefix("tidegate "): parser for name, parser in parsers().items()}
    found = [line for script in SCRIPTS for line in product_commands(script)]

    assert {words[0] for words in found} == {"architectures", "bundle", "gpu-report"}
    for words in found:
        name = " ".join(words[:2]) if words[0] == "bundle" else words[0]
        known[name].parse_args(words[len(name.split()) :])


def product_commands(script: Path) -> Iterator[list[str]]:
    """Yield the words after `python3 -m tidegate.service`, with a word for each variable."""
    text = script.read_text().replace("\\\n", " ")
    for line in re.findall(r"python3 -m tidegate\.service (.+)", text):
        command = re.split(r" (?:2>&1|\|\||\|) ", line)[0]
        command = command.replace('"${http[@]}"', "--no-http").replace('"$precision"', "fp16")
        yield [re.sub(r"\$\{?(\w+).*", r"\1", word) for word in shlex.split(command)]


def test_the_scripts_import_what_there_is() -> None:
    for script in SCRIPTS:
        for module, name in re.findall(
            r"^from (tidegate[\w.]*) import (\w+)", script.read_text(), re.MULTILINE
        ):
            assert hasattr(import_module(module), name), script.name
    for probe in BOOK.glob("*.py"):
        for node in ast.walk(ast.parse(probe.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tidegate"):
                module = import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), probe.name


def test_the_scripts_name_files_settings_and_marks_that_exist() -> None:
    text = "\n".join(script.read_text() for script in SCRIPTS)

    for folder in re.findall(r"pytest (\S+) -m gpu", text):
        assert (ROOT / folder).is_dir()
    for variable in re.findall(r"export (GPU_\w+)=", text):
        assert any(variable in test.read_text() for test in (ROOT / "tests/gpu").glob("*.py"))
    for probe in re.findall(r"\$TG/(\w+\.py)", text):
        assert (BOOK / probe).is_file()
    (compiled,) = re.findall(r"for module in ([\w/ ]+);", (BOOK / "pack.sh").read_text())
    service = ROOT / "service"
    assert {service / f"{name}.c" for name in compiled.split()} == {*service.rglob("*.c")}


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


ON_THE_HOST = {"httpx", "numpy", "onnx", "pytest", "pytest_timeout", "uvloop"}


def test_the_gpu_tests_import_nothing_that_the_host_lacks() -> None:
    packed = re.findall(r"\w+", (BOOK / "pack.sh").read_text())
    has = {*ON_THE_HOST, *packed, "PIL", "tidegate", *sys.stdlib_module_names}  # PIL is pillow
    read, waiting = set[Path](), [ROOT / "tests/conftest.py", *(ROOT / "tests/gpu").glob("*.py")]
    while waiting:
        path = waiting.pop()
        read.add(path)
        for module in imported_at_once(path):
            file = ROOT / f"{module.replace('.', '/')}.py"
            if module.startswith("tests"):
                waiting += [file] if file.is_file() and file not in read else []
            else:
                assert module.partition(".")[0] in has, f"{path} imports {module}"


def imported_at_once(path: Path) -> Iterator[str]:
    """Yield what a module imports when it is imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
