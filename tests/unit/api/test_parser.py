"""Requests are parsed one at a time, at a cost that does not depend on their content."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate.service.api.framing import Refusal
from tidegate.service.api.parser import MAX_EMPTY_BYTES, RequestParser

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BLANK = b"\r\n\r\n"


class Pieces:
    """Collects the pieces of each body."""

    def __init__(self) -> None:
        self.requests: list[list[bytes]] = []
        self.ended = 0

    def on_head(self) -> None:
        self.requests.append([])

    def on_body(self, body: bytes) -> None:
        self.requests[-1].append(body)

    def on_end(self) -> None:
        self.ended += 1


def parse(stream: bytes, step: int = 0) -> Pieces:
    """Return what the parser makes of `stream`, fed `step` bytes at a time."""
    seen = Pieces()
    parser = RequestParser(seen)
    for start in range(0, len(stream), step or len(stream)):
        piece, at = stream[start : start + (step or len(stream))], 0
        while at < len(piece):
            before = seen.ended
            at = parser.feed(piece, at)
            assert seen.ended <= before + 1  # `feed` returns at the end of each request
    return seen


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%X%b\r\n%b\r\n" % (len(data), extension, data)


@pytest.mark.parametrize("data", [BLANK * 10_000, b"0\r\n\r\n" * 10_000, bytes(40_000)])
def test_a_chunk_is_parsed_in_one_piece_whatever_its_data(data: bytes) -> None:
    seen = parse(HEAD + chunk(data) + b"0\r\n\r\n" + GET)

    assert seen.requests == [[data], []]


_data = st.lists(
    st.sampled_from([b"0", b"5", b"\r", b"\n", b"\r\n", BLANK, b";", b"x"]), min_size=1
)
_chunks = st.lists(
    st.tuples(
        _data.map(b"".join),
        st.sampled_from([b"", b";a", b';a="b;\t0"']),
        st.sampled_from([b"", b"00"]),
    ),
    max_size=5,
)


@pytest.mark.lengthy
@settings(deadline=None)
@given(_chunks, st.sampled_from([b"", b"A: 0\r\n", b"A:\r\nB: c\r\n"]), st.integers(1, 40))
def test_the_end_of_a_chunked_body_does_not_depend_on_its_bytes_or_their_split(
    chunks: list[tuple[bytes, bytes, bytes]], trailers: bytes, step: int
) -> None:
    body = b"".join(zeros + chunk(data, extension) for data, extension, zeros in chunks)

    seen = parse((HEAD + body + b"000\r\n" + trailers + b"\r\n" + GET) * 2, step)

    bodies = [b"".join(request) for request in seen.requests]
    assert bodies == [b"".join(data for data, *_ in chunks), b""] * 2
    assert seen.ended == 4


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"0", b"1", b"A", b"\r", b"\n", b"\r\n", b";", b" ", b"-", b'"', b"x"])
    )
)
def test_any_bytes_in_place_of_chunks_are_parsed_as_one_request_at_most(junk: list[bytes]) -> None:
    for step in (0, 1, 3):
        with contextlib.suppress(Refusal):
            parse(HEAD + b"".join(junk) + GET, step)


@pytest.mark.parametrize(
    "line", [b"\r\n", b"x\r\n", b" 1\r\n", b"+1\r\n", b"0x1\r\n", b"1_0\r\n", b"1 \r\n"]
)
def test_a_chunk_without_a_plain_size_is_rejected(line: bytes) -> None:
    with pytest.raises(Refusal, match=r"Invalid HTTP/1\.1"):
        parse(HEAD + line + b"0\r\n\r\n")


def test_many_short_chunks_are_rejected() -> None:
    with pytest.raises(Refusal, match="Chunks are too short"):
        parse(HEAD + chunk(b"x") * 80_000, step=65_536)


def test_some_short_chunks_are_accepted() -> None:
    assert parse(HEAD + chunk(b"x") * 50_000 + b"0\r\n\r\n").ended == 1


@pytest.mark.parametrize("step", [0, 1, 1000])
def test_chunks_of_sixteen_bytes_are_accepted(step: int) -> None:
    seen = parse(HEAD + chunk(b"sixteen bytes at") * 5_000 + b"0\r\n\r\n", step)

    assert b"".join(seen.requests[0]) == b"sixteen bytes at" * 5_000


def test_a_few_empty_lines_before_a_request_are_ignored() -> None:
    assert parse(GET + b"\r\n" + GET + BLANK + GET, 1).ended == 3


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r"])
@pytest.mark.parametrize("step", [0, 1])
def test_many_empty_lines_before_a_request_are_rejected(line_end: bytes, step: int) -> None:
    with pytest.raises(Refusal, match="empty lines"):
        parse(line_end * (MAX_EMPTY_BYTES + 1), step)
