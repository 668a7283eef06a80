"""The page /docs in a real browser: its policy holds, and everyone can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.page.browser import visit
from tests.server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.process


SIZES = pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])


@SIZES
def test_the_reference_fits_and_breaks_no_policy(
    browser: Browser, server: Server, width: int, scheme: str
) -> None:
    """`visit` checks that the policy is kept and that nothing comes from another host."""
    with visit(browser, f"{server.url}/docs", width=width, scheme=scheme, ready=False) as docs:
        borders = "getComputedStyle(document.querySelector('table')).borderCollapse"
        applied = docs.page.evaluate(borders)
        wide = docs.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert applied == "collapse"  # the style was not blocked
    assert wide <= 0


@pytest.mark.slow  # a minute: the page describes every route
@SIZES
def test_everyone_can_read_the_reference(
    browser: Browser, server: Server, width: int, scheme: str
) -> None:
    with visit(browser, f"{server.url}/docs", width=width, scheme=scheme, ready=False) as docs:
        assert docs.violations_of_axe() == ""
