"""Bodies with a Content-Encoding: what is decoded, within which bounds, and what is rejected."""

from __future__ import annotations

import asyncio
import gzip
import zlib

import pytest

from tidegate.service.api.content_encoding import coding_of, decode
from tidegate.service.errors import BadRequest, Overloaded, UnsupportedEncoding, UploadTooLarge

DATA = bytes(range(256)) * 4000
BOUND = len(DATA)


def decoded(body: bytes, coding: str, max_bytes: int = BOUND) -> bytes:
    return asyncio.run(decode(body, coding, max_bytes))


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("header", "coding"),
    [("", ""), ("identity", ""), (" GZIP ", "gzip"), ("x-gzip", "gzip"), ("Deflate", "deflate")],
)
def test_a_known_coding_is_found(header: str, coding: str) -> None:
    assert coding_of(header) == coding


@pytest.mark.parametrize("header", ["br", "zstd", "gzip, gzip", "gzip;q=1", "g\xe9"])
def test_another_coding_is_named_in_the_rejection(header: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="gzip, deflate") as caught:
        coding_of(header)

    assert repr(header) in str(caught.value)


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (DATA, ""),
        (gzip.compress(DATA), "gzip"),
        (gzip.compress(DATA[:7]) + gzip.compress(DATA[7:]), "gzip"),
        (zlib.compress(DATA), "deflate"),
        (raw_deflate(DATA), "deflate"),
    ],
)
def test_a_body_is_decoded(body: bytes, coding: str) -> None:
    assert decoded(body, coding) == DATA


def test_an_empty_body_of_gzip_is_empty() -> None:
    assert decoded(gzip.compress(b""), "gzip") == b""


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("level", [1, 9])
def test_a_body_beyond_the_bound_is_rejected(coding: str, level: int) -> None:
    compress = gzip.compress if coding == "gzip" else zlib.compress

    with pytest.raises(UploadTooLarge):
        decoded(compress(DATA, level), coding, BOUND - 1)


@pytest.mark.lengthy
def test_a_bomb_is_not_inflated_beyond_the_bound() -> None:
    used: list[int] = []

    with pytest.raises(UploadTooLarge):
        asyncio.run(decode(gzip.compress(bytes(64 << 20)), "gzip", 1 << 20, used.append))

    assert max(used) < 2 << 20


def test_bytes_are_reserved_before_they_are_used() -> None:
    def full(_: int) -> None:
        raise Overloaded("full", 1)

    with pytest.raises(Overloaded):
        asyncio.run(decode(gzip.compress(DATA), "gzip", BOUND, full))


@pytest.mark.parametrize(
    ("body", "coding", "reason"),
    [
        (b"", "gzip", "truncated"),
        (b"plain text", "gzip", "not valid gzip"),
        (b"\xff\xff\xff", "deflate", "not valid deflate"),
        (gzip.compress(DATA)[:-1], "gzip", "truncated"),
        (gzip.compress(DATA)[:-8] + bytes(8), "gzip", "not valid gzip"),
        (zlib.compress(DATA) + b"more", "deflate", "4 bytes after"),
        (gzip.compress(b"") * 65, "gzip", "20 bytes after"),
    ],
)
def test_damaged_data_is_rejected_with_the_reason(body: bytes, coding: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        decoded(body, coding)


def test_other_work_runs_while_a_body_is_inflated() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        task = asyncio.create_task(others())
        await decode(gzip.compress(bytes(8 << 20)), "gzip", 8 << 20)
        task.cancel()

    asyncio.run(both())

    assert turns >= 30
