"""The README shows the three decisions as the demo's server gives them, on two screens."""

from __future__ import annotations

import json
import re

import httpx
import pytest

from tests.docs.pages import PAGES, blocks, commands, name_of, read
from tests.server import PHOTOS, ROOT

README = ROOT / "README.md"
DECISIONS = re.findall(
    r"^\| `(\w+\.png)` \| `(\d+)`, (?:decision|code) `([\w-]+)`.*?\| p = ([\d.]+)",
    read(README),
    re.MULTILINE,
)
PRINTED = [
    (name_of(page), answer)
    for page in PAGES
    for block in blocks(page, "json")
    if "ood" in (answer := json.loads(block))
]


def test_it_is_two_screens_of_fifty_lines() -> None:
    assert read(README).count("\n") <= 100


def test_it_starts_with_one_command_and_one_photo() -> None:
    serve, curl, *_ = commands(README)

    assert serve == "make serve"
    assert curl.startswith("curl --data-binary @models/probes/photos/")


@pytest.mark.parametrize(("photo", "status", "expected", "p"), DECISIONS)
def test_each_photo_gets_the_decision_of_the_table(
    client: httpx.Client, photo: str, status: str, expected: str, p: str
) -> None:
    response = client.post("/classify", content=(PHOTOS / photo).read_bytes())

    answer = response.json()
    assert response.status_code == int(status)
    assert answer.get("decision", answer.get("code")) == expected
    digits = len(p.partition(".")[2])
    assert answer["ood"]["p_value"] == pytest.approx(float(p), abs=0.5 * 10**-digits)


def test_the_table_shows_all_three_decisions() -> None:
    assert [expected for _, _, expected, _ in DECISIONS] == ["accept", "out-of-distribution"]
    assert "decision `review`" in read(README)


@pytest.mark.parametrize(("page", "printed"), PRINTED, ids=[page for page, _ in PRINTED])
def test_every_printed_answer_is_the_one_of_the_server(
    client: httpx.Client, page: str, printed: dict[str, object]
) -> None:
    photo = "coffee.png" if "predictions" in printed else "grass.png"
    top_k = len(printed.get("predictions", "00000"))  # type: ignore[arg-type]  # a list
    path = f"/classify?top_k={top_k}"
    answer = client.post(path, content=(PHOTOS / photo).read_bytes()).json()

    assert shape(answer) == shape(printed)
    for name in ("decision", "code", "title", "status", "detail", "type"):
        assert answer.get(name) == printed.get(name)
    for got, expected in zip(
        answer.get("predictions", []), printed.get("predictions", []), strict=True
    ):  # type: ignore[call-overload]  # likewise
        assert (got["class_id"], got["label"]) == (expected["class_id"], expected["label"])
        assert got["probability"] == pytest.approx(expected["probability"], abs=0.03)


def shape(value: object) -> object:
    """Return a document with its values left out."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else None


def test_every_json_block_is_json() -> None:
    found = [json.loads(block) for page in PAGES for block in blocks(page, "json")]

    assert len(found) >= 6
