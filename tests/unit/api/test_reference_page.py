"""The page of the HTTP API: everything of the document is on it, and nothing else runs."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from tidegate.service.api.reference_page import POLICY, render

DOCUMENT = {
    "info": {"title": "T <1>", "version": "2", "summary": "s"},
    "paths": {
        "/classify": {
            "post": {
                "summary": "Classify `it`",
                "description": "One.\n\nTwo.",
                "parameters": [
                    {
                        "name": "top_k",
                        "in": "query",
                        "description": "how many",
                        "schema": {"type": "integer", "minimum": 1, "maximum": 9, "default": 5},
                    }
                ],
                "requestBody": {
                    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}
                },
                "responses": {
                    "200": {
                        "description": "fine",
                        "content": {"application/json": {"schema": {"$ref": "#/c/Answer"}}},
                    }
                },
            }
        }
    },
    "components": {
        "schemas": {
            "Answer": {
                "description": "An answer.",
                "required": ["files"],
                "properties": {
                    "files": {"type": "array", "maxItems": 16, "items": {"type": "string"}},
                    "kind": {"enum": ["a", "b"]},
                    "more": {"anyOf": [{"$ref": "#/c/Answer"}, {"type": "null"}]},
                },
            }
        }
    },
}


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_everything_of_the_document_is_on_the_page() -> None:
    words = Page(render(DOCUMENT)).words

    for expected in (
        "T <1>",
        "POST /classify",
        "Two.",
        "top_k",
        "integer (≥ 1, ≤ 9, default 5)",
        "image/png",
        "bytes",
        "list of string (at most 16)",
        '"a" | "b"',
        "Answer or null",
        "kind (optional)",
    ):
        assert expected in words, expected


def test_every_link_is_relative_and_leads_somewhere() -> None:
    tags = Page(render(DOCUMENT)).tags
    targets = {of["id"] for _, of in tags if "id" in of}
    links = {of["href"] for _, of in tags if "href" in of}

    assert {link for link in links if link and link.startswith("#")} == {
        f"#{target}" for target in targets
    }
    assert {link for link in links if link and not link.startswith("#")} == {"openapi.json"}


def test_the_policy_allows_the_style_of_the_page_and_nothing_else() -> None:
    [style] = re.findall("<style>(.*?)</style>", render(DOCUMENT), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()

    assert f"style-src 'sha256-{digest}'" in POLICY
    assert POLICY.startswith("default-src 'none'")
    assert "script" not in {tag for tag, _ in Page(render(DOCUMENT)).tags}
