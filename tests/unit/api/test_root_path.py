"""A path prefix is removed where it is, and links have it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidegate.service.api.root_path import RootPath, is_prefix, prefix_of


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/vision/classify", "/classify"),
        ("/classify", "/classify"),
        ("/vision", "/"),
        ("/vision/", "/"),
        ("/visionary", "/visionary"),
    ],
)
def test_the_prefix_is_removed_from_paths_that_have_it(path: str, seen: str) -> None:
    paths: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        paths.append(scope["path"])

    asyncio.run(RootPath(app, "/vision")({"type": "http", "path": path}, None, None))  # type: ignore[arg-type]  # not called

    assert paths == [seen]


@pytest.mark.parametrize("text", ["/a", "/a/b-c_d.e~f", "/" + "a" * 199])
def test_a_prefix_is_a_plain_path(text: str) -> None:
    assert is_prefix(text)


@pytest.mark.parametrize("text", ["", "a", "/", "//evil.example", "/a/", "/<b>", "/a b", "/" * 201])
def test_other_texts_are_no_prefix(text: str) -> None:
    assert not is_prefix(text)


@pytest.mark.parametrize(
    ("setting", "forwarded", "prefix"),
    [
        ("", "", ""),
        ("", "/vision/", "/vision"),
        ("", "//evil.example/", ""),
        ("", "https://evil.example", ""),
        ("/mine", "/other", "/mine"),
    ],
)
def test_the_setting_wins_over_a_valid_header(setting: str, forwarded: str, prefix: str) -> None:
    assert prefix_of(setting, forwarded) == prefix
