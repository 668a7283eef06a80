"""Rules for every answer. Pure: a response in, violations out."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from load_tests.client.connection import Response

PROBLEM = "application/problem+json"
_TYPE = "urn:tidegate:problem:"
# The only statuses above 499 that a client may receive, with their codes.
_ALLOWED = {503: {"overloaded", "draining", "not-ready"}, 504: {"deadline-missed"}}
_DECISIONS = {"accept", "review", "reject"}
_CLOSE = 1e-3  # probabilities of the same image in batches of different sizes


@dataclass(frozen=True)
class Violation:
    """The violated rule and the details."""

    rule: str
    detail: str


def judge(response: Response) -> list[Violation]:
    """Return the violations of one response to any request."""
    return [*_server_error(response), *_shape(response)]


def judge_same(first: Response, later: Response) -> list[Violation]:
    """Compare two answers to the same valid image; load may have caused a rejection later."""
    if later.status in _ALLOWED:
        return judge(later)
    if later.status != first.status:
        return [Violation("good-image", f"{first.status} at the start, now {later.status}")]
    if (was := _best(first)) is None or (now := _best(later)) is None:
        return [Violation("good-image", "an answer without predictions")]
    if was[0] != now[0] or abs(was[1] - now[1]) > _CLOSE:
        return [Violation("good-image", f"{was} at the start, now {now}")]
    return []


def is_answer(response: Response) -> bool:
    """Whether the image was classified: 200, or 422 because it is out of distribution."""
    return response.status == 200 or (
        response.status == 422 and b'"code":"out-of-distribution"' in response.body
    )


def detail_of(response: Response) -> str:
    """Return the detail of a problem."""
    return str(_document(response).get("detail"))


def _server_error(response: Response) -> Iterator[Violation]:
    status = response.status
    if status < 500:
        return
    code = str(_document(response).get("code"))
    if code not in _ALLOWED.get(status, ()):
        yield Violation("5xx", f"{status} with code {code}")
    elif status == 503 and not _is_wait(response.header("retry-after")):
        yield Violation("5xx", f"503 {code} without a Retry-After")


def _is_wait(value: str | None) -> bool:
    return value is not None and value.isdecimal()


def _shape(response: Response) -> Iterator[Violation]:
    media = (response.header("content-type") or "").partition(";")[0]
    identity = response.header("x-request-id")
    if not identity:
        yield Violation("malformed", f"{response.status} without x-request-id")
    if response.status >= 400:
        yield from _problem(response, media, identity)
    elif media == "application/json":
        yield from _answer(response, identity)


def _problem(response: Response, media: str, identity: str | None) -> Iterator[Violation]:
    document = _document(response)
    if media != PROBLEM:
        yield Violation("malformed", f"{response.status} of type {media or 'none'}")
    elif document.get("status") != response.status:
        yield Violation("malformed", f"{response.status} with the body {response.body[:200]!r}")
    elif document.get("type") != _TYPE + str(document.get("code")):
        yield Violation("malformed", f"type {document.get('type')}, code {document.get('code')}")
    elif not document.get("request_id") or document["request_id"] != identity:
        yield Violation("malformed", f"request_id is not the x-request-id {identity}")


def _answer(response: Response, identity: str | None) -> Iterator[Violation]:
    try:
        document = json.loads(response.body)
    except ValueError:
        yield Violation("malformed", f"200 with the body {response.body[:200]!r}")
        return
    if not isinstance(document, dict):
        return
    if "decision" in document:
        yield from _classification(document, identity)
    for item in document.get("results", ()):
        yield from _batch_item(item)


def _batch_item(item: dict[str, Any]) -> Iterator[Violation]:
    if item.get("status", 0) >= 500:
        code = str((item.get("problem") or {}).get("code"))
        if code not in _ALLOWED.get(item["status"], ()):
            yield Violation("5xx", f"an item of a batch is {item['status']} with code {code}")
    if (item.get("result") is None) == (item.get("problem") is None):
        yield Violation("malformed", "an item of a batch needs a result or a problem")
    elif item.get("result") is not None:
        yield from _classification(item["result"], None)


def _classification(document: dict[str, Any], identity: str | None) -> Iterator[Violation]:
    if not document.get("request_id") or identity not in (None, document["request_id"]):
        yield Violation("malformed", f"request_id is not the x-request-id {identity}")
    if document["decision"] not in _DECISIONS:
        yield Violation("malformed", f"decision {document['decision']}")
    values = [prediction["probability"] for prediction in document["predictions"]]
    if not all(_is_probability(value) for value in values) or values != sorted(values)[::-1]:
        yield Violation("malformed", f"probabilities {values}")


def _is_probability(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= 1.000001


def _document(response: Response) -> dict[str, Any]:
    try:
        document = json.loads(response.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _best(response: Response) -> tuple[int, float] | None:
    predictions = _document(response).get("predictions") or [None]
    best = predictions[0]
    return None if best is None else (best["class_id"], best["probability"])
