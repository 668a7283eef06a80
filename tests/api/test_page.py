"""GET / and the files of the page, on a real server. tests/page has the tests in a browser."""

from __future__ import annotations

import asyncio
import gzip
import re

import httpx
import pytest
from fastapi import FastAPI

from tidegate.service.api.routes import page
from tidegate.service.api.routes.page import FOLDER
from tidegate.service.settings import Settings

HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(path.name for path in FOLDER.iterdir())
MOST_BYTES = 60_000


def test_a_browser_gets_the_page_and_another_client_links(client: httpx.Client) -> None:
    html, links = client.get("/", headers=HTML), client.get("/")

    assert html.headers["content-type"] == "text/html; charset=utf-8"
    assert links.json()["status"] == "alive"
    for path in links.json()["links"].values():
        assert client.get(f"/{path}").status_code in {200, 405}
    assert {html.headers["vary"], links.headers["vary"]} == {"Accept, Accept-Encoding", "Accept"}


async def get(app: FastAPI, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers=HTML)


def test_without_the_page_a_browser_gets_links() -> None:
    app = FastAPI()
    app.include_router(page.router(with_page=False))

    assert asyncio.run(get(app, "/")).json()["status"] == "alive"
    assert asyncio.run(get(app, "/page/app.js")).status_code == 404


def test_the_page_is_a_setting() -> None:
    assert Settings().page == "on"
    assert Settings(page="off").page == "off"


def test_the_page_may_load_only_from_its_own_origin(client: httpx.Client) -> None:
    headers = client.get("/", headers=HTML).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))

    assert policy["default-src"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
    assert policy["img-src"] == "'self' blob:"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", sorted({*FILES} - {"index.html"}))
def test_a_file_is_sent_once_and_then_only_if_it_changed(client: httpx.Client, name: str) -> None:
    answer = client.get(f"/page/{name}", headers={"Accept-Encoding": "gzip"})
    again = client.get(f"/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    plain = client.get(f"/page/{name}", headers={"Accept-Encoding": "identity"})

    assert answer.content == plain.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert (again.status_code, again.content) == (304, b"")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["index.html", "none.js", "..%2Fparser.py", "%2e%2e/app.py"])
def test_no_other_file_is_sent(client: httpx.Client, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_small_and_names_no_host() -> None:
    contents = {name: (FOLDER / name).read_bytes() for name in FILES}

    assert sum(len(gzip.compress(content)) for content in contents.values()) <= MOST_BYTES
    for name, content in contents.items():
        hosts = re.findall(rb"\bhttps?://[\w.-]+", content)
        assert set(hosts) <= {b"http://www.w3.org"}, name  # the namespace of SVG
        assert not re.search(rb"""(src|href)=["']/""", content), name  # works below any path


def test_every_text_is_in_both_languages() -> None:
    def names(pattern: str, *files: str) -> list[str]:
        text = "".join((FOLDER / file).read_text("utf-8") for file in files)
        return re.findall(pattern, text, re.M)

    key = r"^ +\"?([\w-]+)\"?:"
    used = names(r"\bt\.(\w+)", *FILES) + names(r"data-t(?:-label)?=\"(\w+)\"", "index.html")

    assert names(key, "english.js") == names(key, "german.js")
    assert {*used} <= {*names(key, "english.js")}
