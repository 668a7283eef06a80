from __future__ import annotations

import pytest

from tidegate.service.api.context import RequestContext
from tidegate.service.api.parameters import (
    MAX_TIMEOUT_MS,
    Wanted,
    parse_timeout_s,
    parse_top_k,
    parse_wanted,
)
from tidegate.service.errors import BadRequest


@pytest.mark.parametrize(
    ("query", "top_k"),
    [(b"", 5), (b"other=1", 5), (b"top_k=1", 1), (b"a=b&top_k=10000", 10_000), (b"top_k=007", 7)],
)
def test_top_k_is_read(query: bytes, top_k: int) -> None:
    assert parse_top_k(query) == top_k


@pytest.mark.parametrize(
    "query",
    [
        b"top_k=",
        b"top_k",
        b"top_k=0",
        b"top_k=-1",
        b"top_k=1.5",
        b"top_k=many",
        b"top_k=1e3",
        b"top_k=10001",
        b"top_k=1&top_k=2",
        b"top_k=%2B5",
        b"top_k=%EF%BC%95",
        b"top_k=%ff",
        b"top_k=" + b"9" * 60_000,
        b"&" * 60_000,
    ],
)
def test_any_other_top_k_is_a_bad_request_without_the_clients_text(query: bytes) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_top_k(query)

    assert len(str(refusal.value)) < 100


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (b"other=1", Wanted()),
        (b"features=true&top_k=2", Wanted(2, 0.0, "list")),
        (b"features=base64", Wanted(features="base64")),
        (b"features=false", Wanted()),
        (b"min_probability=0.25", Wanted(min_probability=0.25)),
        (b"min_probability=1e-3", Wanted(min_probability=0.001)),
    ],
)
def test_what_is_wanted_is_read(query: bytes, wanted: Wanted) -> None:
    assert parse_wanted(query) == wanted


@pytest.mark.parametrize(
    "query",
    [
        b"features=yes",
        b"features=true&features=true",
        b"min_probability=",
        b"min_probability=nan",
        b"min_probability=1.01",
        b"min_probability=-0.1",
        b"min_probability=" + b"9" * 9_000,
    ],
)
def test_anything_else_that_is_wanted_is_a_bad_request(query: bytes) -> None:
    with pytest.raises(BadRequest, match=r"features|min_probability"):
        parse_wanted(query)


def test_a_timeout_is_milliseconds() -> None:
    assert parse_timeout_s("250") == 0.25
    assert parse_timeout_s(str(MAX_TIMEOUT_MS)) > 1e15


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5", "soon", "1, 2", str(2**63), "9" * 5000])
def test_any_other_timeout_is_a_bad_request(text: str) -> None:
    with pytest.raises(BadRequest, match="X-Request-Timeout-Ms"):
        parse_timeout_s(text)


def test_a_repeated_timeout_is_a_bad_request() -> None:
    name = b"x-request-timeout-ms"

    assert RequestContext.from_headers([(name, b"5"), (name, b"9")]).timeout_ms == "5, 9"
