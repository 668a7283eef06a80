"""The page of a server with API keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.page.browser import visit
from tests.server import running
from tidegate.service.api.keys import hash_of, new_key

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.process, pytest.mark.slow]


def test_with_its_key_every_part_of_the_page_works(
    browser: Browser, images: dict[str, Path], tmp_path: Path
) -> None:
    key, keys = new_key(), tmp_path / "keys"
    keys.write_text(f"person {hash_of(key)} classify,feedback,metrics\n")
    keys.chmod(0o600)
    with running(keys=keys) as server, visit(browser, f"{server.url}/", ready=False) as opened:
        opened.find(".state").filter(has_text="Needs a key").wait_for()
        opened.choose(images["coffee"])
        for given in ("wrong", key):
            opened.find("#key").fill(given)
            opened.page.keyboard.press("Enter")
            if given == "wrong":
                opened.find("#key-error").filter(has_text="did not accept").wait_for()
        opened.answered()
        opened.find(".state.good").wait_for()
        opened.find(".explain .button").click()
        opened.find(".heat").wait_for()
        opened.find(".feedback .button").first.click()
        opened.find(".feedback-result").filter(has_text="Thank you").wait_for()

        assert "espresso" in opened.text(".verdict-label")
        assert opened.find(".histogram").count() == 6
