"""`make gpu-report` in a separate folder, with a script in place of each program."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[5]
# A fake pip that records the requested extras and lacks one package.
FAKE_PYTHON = """#!/bin/sh
echo "$@" >> asked
case "$*" in *"[$LACKING,"*|*" $LACKING "*) echo "no $LACKING to be found" >&2; exit 1;; esac
case "$*" in *--keep*) cd build/architectures && mkdir -p vit-s-16-timm/1 resnet-50-timm/1;; esac
"""

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(shutil.which("make") is None, reason="there is no make"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder for the targets, with everything installed except the GPU packages."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    compiled = next(
        line.split(":=")[1].split()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("COMPILED :=")
    )
    for name in ("pyproject.toml", "setup.py", *compiled):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for environment in (".venv", ".venv-gpu", ".venv-torch"):
        (tmp_path / environment / "bin").mkdir(parents=True)
        for program in ("python", "tidegate"):
            fake = tmp_path / environment / "bin" / program
            fake.write_text(FAKE_PYTHON)
            fake.chmod(0o755)
    (tmp_path / ".venv/.serve-installed").touch()
    (tmp_path / "build/photos").mkdir(parents=True)
    return tmp_path


def make(project: Path, *words: str, lacking: str = "nothing") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "LACKING": lacking}
    command = ("make", *words)
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )


def installed(project: Path) -> list[str]:
    """Return the requested extras in order, and clear them."""
    asked = project / "asked"
    lines = asked.read_text().splitlines()
    asked.write_text("")
    return [line.split("--editable .")[1] for line in lines if line.endswith(",models]")]


def test_the_report_uses_tensorrt_and_installs_it_once(project: Path) -> None:
    assert make(project, "gpu-report").returncode == 0
    assert installed(project) == ["[tensorrt,models]"]

    assert make(project, "gpu-report").returncode == 0
    assert installed(project) == []


def test_without_tensorrt_the_report_continues_with_a_message(project: Path) -> None:
    done = make(project, "gpu-report", lacking="tensorrt")

    assert done.returncode == 0
    assert "the extra tensorrt cannot be installed" in done.stderr
    asked = (project / "asked").read_text()
    assert "gpu-report --photos build/photos" in asked
    assert installed(project) == ["[tensorrt,models]", "[gpu,models]"]


def test_the_report_is_of_the_demo_and_of_networks_made_for_it_once(project: Path) -> None:
    make(project, "gpu-report")
    make(project, "gpu-report")

    asked = (project / "asked").read_text().splitlines()
    made = "architectures ResNet-50 ConvNeXt-T ViT-S/16 --keep build/architectures"
    assert asked.count(made) == 1
    bundles = "models/bundles/efficientnet-lite0/1 build/architectures/vit-s-16-timm/1"
    assert asked[-1] == f"gpu-report --photos build/photos {bundles}"


def test_without_torch_the_report_measures_only_the_demo_with_a_message(project: Path) -> None:
    done = make(project, "gpu-report", lacking="torch")

    assert done.returncode == 0
    assert "the networks cannot be built" in done.stderr
    last = (project / "asked").read_text().splitlines()[-1]
    assert last.endswith("--photos build/photos models/bundles/efficientnet-lite0/1")


def test_another_extra_is_installed_in_addition_to_the_first(project: Path) -> None:
    make(project, "gpu-report")
    make(project, "gpu-report", "GPU_EXTRA=tensorrt-rtx")

    assert installed(project) == ["[tensorrt,models]", "[tensorrt-rtx,models]"]


def test_the_tests_of_the_packages_take_tensorrt_rtx(project: Path) -> None:
    assert make(project, "test-gpu-packages").returncode == 0
    assert "-m pytest -m gpu_packages" in (project / "asked").read_text()
    assert installed(project) == ["[tensorrt-rtx,models]"]


def test_without_any_package_the_report_stops(project: Path) -> None:
    done = make(project, "gpu-report", "GPU_EXTRA=gpu", lacking="gpu")

    assert done.returncode != 0
    assert "gpu-report" not in (project / "asked").read_text()
