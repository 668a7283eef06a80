"""`pip install` works next to other packages and user folders called `service` and `models`."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.processes import output

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
FOLDERS = ("service", "models", "clusters")
FOREIGN = "service==0.6.0"  # a PyPI package whose import name is `service`
PATIENCE_S = 170.0


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command without the environment's TIDEGATE_* and PYTHONPATH; return its stdout."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PIP_COMPILE": "0", **variables}
    return output(command, cwd, environment, PATIENCE_S)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files, so that nothing is built in the checkout."""
    source = tmp_path_factory.mktemp("source")
    listed = run("git", "ls-files", *FOLDERS, "*.toml", "setup.py", "*.md", "LICENSE", "NOTICE")
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", out, source)
    [built] = out.glob("tidegate-*.whl")
    return built


@pytest.fixture(scope="module", params=["wheel", "editable"])
def tidegate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in a new environment that also has a foreign package called `service`.

    The dependencies come from the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp(str(request.param))
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip = (sys.executable, "-m", "pip", "--python", folder, "install", "--quiet", "--no-deps")
    [site] = (folder / "lib").glob("python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if request.param == "wheel":
        run(*pip, request.getfixturevalue("wheel"))
    else:
        run(*pip, "--editable", request.getfixturevalue("source"))
    run(*pip, FOREIGN)
    return folder / "bin/tidegate"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with packages called `service` and `models`."""
    for name in ("service", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is the user’s')\n")
    return tmp_path


def test_the_wheel_has_every_module_and_every_file_of_the_recipes(wheel: Path) -> None:
    tracked = run("git", "ls-files", *FOLDERS).splitlines()
    wanted = {
        f"tidegate/{name.removeprefix('clusters/')}"
        for name in tracked
        if (ROOT / name).exists() and not name.endswith((".c", "README.md"))
    }

    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tidegate/")}

    assert {name for name in packed if not name.endswith((".so", ".c"))} == wanted


def metadata_of(wheel: Path) -> tuple[str, str]:
    """Return the headers and the description."""
    with zipfile.ZipFile(wheel) as packed:
        [metadata] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        headers, _, description = packed.read(metadata).decode().partition("\n\n")
    return headers, description


def test_only_the_extra_openvino_needs_openvino(wheel: Path) -> None:
    headers, _ = metadata_of(wheel)
    required = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)", headers, re.M)]

    def extras_with(name: str) -> set[str]:
        extras = [*re.findall(r"^Provides-Extra: (.*)", headers, re.M), ""]
        return {
            extra
            for extra in extras
            for each in required
            if each.name == name and (each.marker is None or each.marker.evaluate({"extra": extra}))
        }

    assert extras_with("openvino") == {"openvino"}
    assert extras_with("onnxruntime") == {"cpu"}
    assert "" in extras_with("fastapi")


def test_no_link_of_the_description_needs_the_repository(wheel: Path) -> None:
    headers, description = metadata_of(wheel)

    assert "Description-Content-Type: text/markdown" in headers
    assert "make serve" in description
    assert re.findall(r"\]\((?!https?:)[^)]*\)", description) == []


@pytest.mark.parametrize("path", ["", "."], ids=["plain", "PYTHONPATH=."])
def test_the_command_works_next_to_packages_of_the_same_name(
    tidegate: Path, folder: Path, path: str
) -> None:
    variables = {"PYTHONPATH": path} if path else {}

    assert run(tidegate, "--version", cwd=folder, **variables) == f"tidegate {VERSION}\n"
    assert "--checkpoint" in run(tidegate, "import", "--help", cwd=folder, **variables)
    bundle = str(ROOT / "models/bundles/efficientnet-lite0/1")
    described = run(tidegate, "describe", cwd=folder, TIDEGATE_BUNDLE=bundle, **variables)
    assert described.startswith("serves    efficientnet-lite0 1")


def test_a_completion_script_has_every_command(tidegate: Path, folder: Path) -> None:
    script = run(tidegate, "completion", "bash", cwd=folder)

    assert all(command in script for command in ("serve", "import", "retrain-request"))


def test_a_closed_pipe_is_not_an_error(tidegate: Path, folder: Path) -> None:
    bundle = ROOT / "models/bundles/efficientnet-lite0/1"

    script = f"{tidegate} describe --bundle {bundle} | true"
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, check=False)

    assert done.stderr == b""
