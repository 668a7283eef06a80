"""The pages of the documentation, and what is on them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from tests.server import ROOT

PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
        *(ROOT / name for name in ("ARCHITECTURE.md", "DECISIONS.md", "docker/RUNBOOK.md")),
        *(ROOT / name for name in ("models/README.md", "load_tests/README.md")),
        ROOT / "load_tests/peers/README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


@cache
def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text("utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [code for kind, code in _BLOCK.findall(read(page)) if kind == language]


def prose(page: Path) -> str:
    """Return a page's text without its fenced blocks."""
    return _BLOCK.sub("", read(page))


def commands(page: Path) -> list[str]:
    """Return every command of a page: the lines of its `sh` blocks."""
    code = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [line.strip() for line in code.splitlines() if line.strip()]
