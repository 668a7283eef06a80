"""What `pip install` puts where: no other package and no folder of the user's gets in the way."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
STRANGER = "service==0.6.0"  # a package of the index whose import name is that of our folder
PATIENCE_S = 170.0

pytestmark = pytest.mark.timeout(600)


def run(*command: str | Path, cwd: Path = ROOT, **variables: str) -> str:
    """Run a command without the environment's TIDEGATE_* and PYTHONPATH; return its stdout."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, so that nothing is built in the checkout."""
    source = tmp_path_factory.mktemp("source")
    listed = run(
        "git", "ls-files", "service", "models", "*.toml", "setup.py", "*.md", "LICENSE", "NOTICE"
    )
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
    """The command of a fresh environment that has a foreign package called `service` too.

    The requirements are those of the environment that runs the tests.
    """
    folder = tmp_path_factory.mktemp(str(request.param))
    run(sys.executable, "-m", "venv", folder)
    pip = (folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps")
    [site] = (folder / "lib").glob("python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if request.param == "wheel":
        run(*pip, request.getfixturevalue("wheel"))
    else:
        run(*pip, "--editable", request.getfixturevalue("source"))
    run(*pip, STRANGER)
    return folder / "bin/tidegate"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder whose own packages have the names of ours."""
    for name in ("service", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('this is the user’s')\n")
    return tmp_path


def test_the_wheel_holds_every_module_and_every_file_of_the_recipes(wheel: Path) -> None:
    tracked = run("git", "ls-files", "service", "models").splitlines()
    wanted = {
        f"tidegate/{name}"
        for name in tracked
        if (ROOT / name).exists() and not name.endswith((".c", "README.md"))
    }

    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tidegate/")}

    assert {name for name in held if not name.endswith((".so", ".c"))} == wanted


@pytest.mark.parametrize("path", ["", "."], ids=["plain", "PYTHONPATH=."])
def test_the_command_works_beside_packages_of_the_same_name(
    tidegate: Path, folder: Path, path: str
) -> None:
    variables = {"PYTHONPATH": path} if path else {}

    assert run(tidegate, "--version", cwd=folder, **variables) == f"tidegate {VERSION}\n"
    assert "--checkpoint" in run(tidegate, "import", "--help", cwd=folder, **variables)
    bundle = str(ROOT / "models/bundles/efficientnet-lite0/1")
    described = run(tidegate, "describe", cwd=folder, TIDEGATE_BUNDLE=bundle, **variables)
    assert described.startswith("serves    efficientnet-lite0 1")


def test_a_completion_script_knows_every_command(tidegate: Path, folder: Path) -> None:
    script = run(tidegate, "completion", "bash", cwd=folder)

    assert all(command in script for command in ("serve", "import", "retrain-request"))


def test_a_reader_that_leaves_is_no_error(tidegate: Path, folder: Path) -> None:
    bundle = ROOT / "models/bundles/efficientnet-lite0/1"

    script = f"{tidegate} describe --bundle {bundle} | true"
    done = subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, check=False)

    assert done.stderr == b""
