from __future__ import annotations

import pytest

from tidegate.service.api.accept import prefers

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (BROWSER, True),
        ("TEXT/HTML", True),
        ("text/html;q=0.5, application/json;q=0.4", True),
        ("text/html;level=1;q=0.5, application/json;q=0.5", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=nonsense", False),
        ("text/html;q=9", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("", False),
        (",;,;q", False),
    ],
)
def test_html_is_for_clients_that_name_it(accept: str, html: bool) -> None:
    assert prefers(accept, "text/html", "application/json") is html
