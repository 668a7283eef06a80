from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.page.browser import Visit, chromium, find_chromium, visit
from tests.server import PHOTOS, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Open = Callable[..., AbstractContextManager[Visit]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a module. While it runs, `asyncio.run` fails in its thread."""
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium: run tests/page/fetch_chromium.sh, or set CHROMIUM")
    with chromium(program) as started:
        yield started


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Open:
    """Open the page of the shared server; call it with a width, a scheme or a locale."""
    return partial(visit, browser, f"{server.url}/")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An image for each thing that can happen to one."""
    folder = tmp_path_factory.mktemp("images")
    small, many_pixels = io.BytesIO(), io.BytesIO()
    Image.open(PHOTOS / "rocket.jpg").resize((40, 40)).save(small, "PNG")
    Image.new("1", (6000, 6000)).save(many_pixels, "PNG")
    coffee = (PHOTOS / "coffee.png").read_bytes()
    made = {
        "review.png": small.getvalue(),
        "broken.png": coffee[: len(coffee) // 2],
        "text.png": b"not an image",
        "huge.png": bytes(17 << 20),
        "many-pixels.png": many_pixels.getvalue(),
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    photos = {name: PHOTOS / f"{name}.png" for name in ("coffee", "grass", "chelsea")}
    return photos | {Path(name).stem: folder / name for name in made}
