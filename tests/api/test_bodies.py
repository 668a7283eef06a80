"""The forms in which a body may carry an image: compressed, as base64 in JSON, as any file."""

from __future__ import annotations

import base64
import gzip
import zlib
from typing import Any

import httpx
import pytest


def gist(answer: httpx.Response) -> Any:
    """Return what does not differ between two answers for the same image."""
    body = answer.json()
    return answer.status_code, body["decision"], body["predictions"], body["ood"]


@pytest.fixture(scope="module")
def plain(client: httpx.Client, chelsea: bytes) -> Any:
    return gist(client.post("/classify", content=chelsea))


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
def test_an_encoded_body_is_answered_as_the_plain_one(
    client: httpx.Client, chelsea: bytes, plain: Any, coding: str, compress: Any
) -> None:
    answer = client.post(
        "/classify", content=compress(chelsea), headers={"Content-Encoding": coding}
    )

    assert gist(answer) == plain


@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
def test_an_encoded_form_is_read(client: httpx.Client, chelsea: bytes, path: str) -> None:
    form = httpx.Request("POST", "http://x", files={"photo": chelsea})
    body = gzip.compress(form.read())
    headers = {"Content-Type": form.headers["content-type"], "Content-Encoding": "gzip"}

    assert client.post(path, content=body, headers=headers).status_code == 200


def test_another_encoding_is_rejected_by_its_name(client: httpx.Client, chelsea: bytes) -> None:
    answer = client.post("/classify", content=chelsea, headers={"Content-Encoding": "br"})

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-encoding")
    assert "'br'" in answer.json()["detail"]
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_a_bomb_is_rejected(client: httpx.Client) -> None:
    bomb = gzip.compress(bytes(200 << 20))
    answer = client.post("/classify", content=bomb, headers={"Content-Encoding": "gzip"})

    assert (answer.status_code, answer.json()["code"]) == (413, "upload-too-large")


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_in_json_is_answered_as_the_plain_body(
    client: httpx.Client, chelsea: bytes, plain: Any, prefix: str
) -> None:
    text = prefix + base64.b64encode(chelsea).decode()

    assert gist(client.post("/classify", json={"image": text})) == plain


def test_a_misspelt_field_of_the_json_is_named(client: httpx.Client) -> None:
    answer = client.post("/classify", json={"img": "AAAA"})

    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    assert "`img`" in answer.json()["detail"]


def test_the_only_file_of_a_form_is_taken_whatever_its_name(
    client: httpx.Client, chelsea: bytes, plain: Any
) -> None:
    answer = client.post("/classify", files={"upload": chelsea}, data={"note": "mine"})

    assert gist(answer) == plain


def test_two_files_without_the_expected_name_are_rejected(
    client: httpx.Client, chelsea: bytes
) -> None:
    answer = client.post("/classify", files={"left": chelsea, "right": chelsea})

    assert answer.status_code == 400
    assert 'none is named "file"' in answer.json()["detail"]
