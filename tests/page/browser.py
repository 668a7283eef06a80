"""A real headless Chromium, and visits to the page that record what the browser does.

Playwright is imported only by what uses it, because every worker reads the files of all tests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.server import PATIENCE_S, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

FETCHED = ROOT / ".tools/chromium/chromium"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


def find_chromium() -> Path | None:
    """Return the Chromium named by CHROMIUM, the fetched one, or one on PATH."""
    named = os.environ.get("CHROMIUM")
    if named:
        return Path(named)
    if FETCHED.exists():
        return FETCHED
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return None if found is None else Path(found)


@contextmanager
def chromium(program: Path) -> Iterator[Browser]:
    """Start a browser, and close it at the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """The page in one tab, and what the browser requested and complained of."""

    page: Page
    urls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def find(self, selector: str) -> Locator:
        return self.page.locator(selector)

    def choose(self, *files: Path) -> None:
        """Choose images, as in the dialog of the operating system."""
        self.page.set_input_files("#file", list(files))

    def answered(self) -> None:
        """Wait until every image is answered, and every part of the shown answer is there."""
        for selector in (
            ".thumb-badge.busy, .thumb-badge.waiting",
            ".gate.loading, .frame.loading",
        ):
            self.find(selector).first.wait_for(state="detached")

    def text(self, selector: str) -> str:
        return self.find(selector).inner_text()

    def violations_of_axe(self) -> str:
        """Return what axe-core finds wrong, in words."""
        from axe_playwright_python.sync_playwright import Axe

        results = Axe().run(self.page)
        return str(results.generate_report()) if results.violations_count else ""

    def violations(self) -> list[str]:
        found: list[str] = self.page.evaluate("() => window.violations")
        return found


@contextmanager
def visit(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    scheme: Any = "light",
    locale: str = "en-GB",
    ready: bool = True,
) -> Iterator[Visit]:
    """Open the page in a new profile. At the end nothing may have gone to another host."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        locale=locale,
        permissions=["camera", "clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(1000 * PATIENCE_S)
    context.add_init_script(_VIOLATIONS)
    visited = Visit(context.new_page())
    visited.page.on("request", lambda request: visited.urls.append(request.url))
    visited.page.on("pageerror", lambda error: visited.errors.append(str(error)))
    try:
        visited.page.goto(url)
        if ready:
            visited.find(".state.good").wait_for()
        yield visited
        assert visited.violations() == []
        assert visited.errors == []
        blobs = f"blob:{visited.page.evaluate('() => origin')}/"
        foreign = [one for one in visited.urls if not one.startswith((url, blobs))]
        assert foreign == []
    finally:
        context.close()
