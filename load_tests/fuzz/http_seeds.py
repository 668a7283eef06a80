"""Requests as clients and proxies send them, with the expected answers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from load_tests.fuzz import wire
from load_tests.fuzz.seeds import good_image

CLASSIFY, BATCH, FEEDBACK = b"/classify", b"/classify/batch", b"/feedback"
_UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
_HIDDEN = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"


ANY: tuple[int, ...] = ()  # any answers, or none


@dataclass(frozen=True)
class HttpSeed:
    """Bytes to send on one connection, and the status of each answer in order, or ANY."""

    name: str
    data: bytes
    statuses: tuple[int, ...] = ANY


@cache
def http_seeds() -> tuple[HttpSeed, ...]:
    """Return every seed."""
    return (*_bodies(), *_connections(), *_upgrades(), *_routes(), *_odd_heads())


def _bodies() -> Iterator[HttpSeed]:
    image = good_image()
    yield HttpSeed("raw", wire.request(CLASSIFY, image), (200,))
    yield HttpSeed("multipart", wire.multipart(CLASSIFY, b"file", [image]), (200,))
    yield HttpSeed("batch", wire.multipart(BATCH, b"files", [image] * 3), (200,))
    yield HttpSeed("chunked", wire.chunked(CLASSIFY, image, 4096), (200,))
    yield HttpSeed("chunked-finely", wire.chunked(CLASSIFY, image, 64), (200,))
    trailers = b"X-Checksum: 1\r\n"
    yield HttpSeed("trailers", wire.chunked(CLASSIFY, image, 9999, trailers), (200,))
    yield HttpSeed("empty", wire.request(CLASSIFY, b""), (400,))
    yield HttpSeed("text", wire.request(CLASSIFY, b"not an image"), (415,))


def _connections() -> Iterator[HttpSeed]:
    image = good_image()
    post = wire.request(CLASSIFY, image)
    expecting = wire.request(CLASSIFY, image, headers=[b"Expect: 100-continue"])
    closing = wire.request(CLASSIFY, image, headers=[b"Connection: close"])
    yield HttpSeed("expect", expecting, (200,))
    yield HttpSeed("close", closing, (200,))
    yield HttpSeed("pipelined", post + wire.get(b"/livez") + post, (200, 200, 200))
    yield HttpSeed("pipelined-gets", wire.get(b"/livez") * 5, (200,) * 5)
    yield HttpSeed(
        "timeout", wire.request(CLASSIFY, image, headers=[b"X-Request-Timeout-Ms: 1"]), (504,)
    )


def _upgrades() -> Iterator[HttpSeed]:
    """Yield offers to upgrade, which the server ignores; the body belongs to the request."""
    image = good_image()
    yield HttpSeed("h2c", wire.request(CLASSIFY, image, headers=_UPGRADE), (200,))
    hidden = wire.request(CLASSIFY, _HIDDEN, headers=_UPGRADE)
    yield HttpSeed("h2c-body-that-is-a-request", hidden, (415,))
    websocket = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13")
    yield HttpSeed("websocket", wire.request(CLASSIFY, image, headers=websocket), (200,))


def _routes() -> Iterator[HttpSeed]:
    feedback = json.dumps({"request_id": "a" * 32, "class_id": 3}).encode("ascii")
    deep = b"[" * 2000 + b"]" * 2000
    yield HttpSeed("feedback", wire.request(FEEDBACK, feedback, b"application/json"), (404,))
    yield HttpSeed("feedback-deep", wire.request(FEEDBACK, deep, b"application/json"), (400,))
    for path in (b"/livez", b"/readyz", b"/models", b"/metrics", b"/drift", b"/openapi.json"):
        yield HttpSeed(f"get-{path[1:].decode('ascii')}", wire.get(path), (200,))
    yield HttpSeed("top-k", wire.request(CLASSIFY + b"?top_k=3", good_image()), (200,))
    yield HttpSeed("top-k-nonsense", wire.request(CLASSIFY + b"?top_k=x", good_image()), (400,))
    yield HttpSeed("unknown-route", wire.get(b"/nothing"), (404,))
    yield HttpSeed("wrong-method", wire.get(CLASSIFY), (405,))


def _odd_heads() -> Iterator[HttpSeed]:
    image = good_image()
    many = [b"X-%d: %d" % (n, n) for n in range(90)]
    yield HttpSeed("many-headers", wire.request(CLASSIFY, image, headers=many), (200,))
    folded = [b"X-Long: " + b"a" * 8000]
    yield HttpSeed("long-header", wire.request(CLASSIFY, image, headers=folded), (200,))
    yield HttpSeed("huge-head", wire.get(b"/livez", [b"X: " + b"a" * 1_000_000]), (431,))
    yield HttpSeed("absolute-target", wire.get(b"http://127.0.0.1/livez"), (200,))
    yield HttpSeed("not-http", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" * 9, (400,))
    yield HttpSeed("no-version", b"GET /livez\r\n\r\n")
    both = [b"Transfer-Encoding: chunked"]
    yield HttpSeed("length-and-chunked", wire.request(CLASSIFY, b"0\r\n\r\n", headers=both), (400,))
    twice = [b"Content-Length: 1"]
    yield HttpSeed("two-lengths", wire.request(CLASSIFY, b"abc", headers=twice), (400,))
