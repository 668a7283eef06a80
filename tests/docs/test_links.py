"""Every link, heading and path of the pages is sound, also without building the site."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, name_of, prose, read
from tests.server import ROOT

DECISIONS = ROOT / "docs" / "decisions"
HISTORY = {ROOT / "CHANGELOG.md", *DECISIONS.glob("[0-9]*.md")}
MADE = re.compile(r"models/(bundles|downloads)\b|NAME")  # paths that a command or a reader makes


@cache
def headings(page: Path) -> list[tuple[int, str]]:
    """Return (level, text) of a page's headings."""
    return [(len(m), text) for m, text in re.findall(r"^(#+) (.+)$", prose(page), re.MULTILINE)]


def anchor(heading: str) -> str:
    """Return a heading's anchor, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if fragment:
            assert fragment in {anchor(text) for _, text in headings(target)}, link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_one_title_and_no_level_is_skipped(page: Path) -> None:
    levels = [level for level, _ in headings(page)]

    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("page", sorted({*PAGES} - HISTORY), ids=name_of)
def test_no_two_headings_of_a_page_have_the_same_anchor(page: Path) -> None:
    anchors = [anchor(text) for _, text in headings(page)]

    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize("page", sorted({*PAGES} - HISTORY), ids=name_of)
def test_every_path_that_is_named_exists(page: Path) -> None:
    below = ROOT / "models" if page == ROOT / "models" / "README.md" else ROOT
    spans = {span for span in re.findall(r"`([\w./-]+)`", prose(page)) if "/" in span}
    files = {span for span in spans if re.search(r"\.(py|c|sh|yml|txt|npz|conf|service)$", span)}
    folders = {s for s in spans if re.match(r"(docs|docker|models|service|load_tests)/", s)}

    missing = [
        span
        for span in files | folders
        if not MADE.search(span)
        and not any((start / span).exists() for start in (below, *_ROOMS))
        and not span.startswith(("golden/", "./"))
    ]
    assert missing == []


_ROOMS = [ROOT / name for name in (".", "service", "models", "docker/prometheus")]


def test_no_command_is_indented_instead_of_fenced() -> None:
    """The tests of commands would not see it."""
    indented = [
        (name_of(page), line)
        for page in PAGES
        for line in re.findall(
            r"^ {4}((?:make|curl|tidegate|pip|python|docker) .*)$", read(page), re.M
        )
    ]

    assert indented == [
        ("README.md", line) for name, line in indented if name == "README.md" and "--" in line
    ]
