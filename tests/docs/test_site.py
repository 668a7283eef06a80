"""The site builds without a warning, and needs no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server import PATIENCE_S, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    out = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "--quiet",
            "--fail-on-warning",
            "--keep-going",
            "-c",
            "docs",
            "-d",
            str(out / "cache"),
            ".",
            str(out / "html"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return out / "html"


def test_it_builds_without_a_warning(site: Path) -> None:
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}

    assert {"index.html", "README.html", "docs/index.html", "docker/RUNBOOK.html"} <= pages
    assert len([page for page in pages if page.startswith("docs/decisions/")]) > 70


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    elements = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:https?:)?//[^>]*>")
    styles = re.compile(r"@import[^;]*//[^;]*|url\(['\"]?(?:https?:)?//[^)]*\)")

    loaded = [
        (path.name, found)
        for path in site.rglob("*")
        if path.suffix in {".html", ".css"}
        for found in (elements if path.suffix == ".html" else styles).findall(
            path.read_text("utf-8")
        )
    ]
    assert loaded == []
