"""Changes to the bytes of an HTTP request: head, framing and form. Pure."""

import random
import re
from collections.abc import Callable, Sequence

from load_tests.fuzz.wire import BOUNDARY

_MOST_CHANGES = 3
_NUMBERS = (b"0", b"1", b"-1", b"+5", b"00012", b"0x10", b"65536", b"2147483648", b"1" * 30, b"")
_ODD = (
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\t",
    b" ",
    b":",
    b";",
    b"\xff",
    b"%00",
    b"\x80" * 9,
)
_LINES = (
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Length: 5",
    b"Connection: close",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Expect: 100-continue",
    b"Host: a",
    b" folded: yes",
    b"X-Request-Timeout-Ms: 0",
    b"X-Request-Id: \xe9",
    b": none",
    b"Content-Encoding: gzip",
    b"Content-Type: multipart/form-data",
    b"Range: bytes=0-1",
)
_METHODS = (b"GET", b"POST", b"PUT", b"OPTIONS", b"DELETE", b"PRI", b"post", b"")
_DIGITS = re.compile(rb"\d+")
_CHUNK = re.compile(rb"\r\n([0-9a-fA-F]+)\r\n")
Mutator = Callable[[random.Random, bytes, bytes], bytes]


def mutate_http(rng: random.Random, data: bytes, other: bytes) -> tuple[bytes, list[str]]:
    """Return `data` after one to three changes, and their names; `other` is another request."""
    names = []
    for _ in range(min(_MOST_CHANGES, 1 + int(rng.expovariate(1.2)))):
        change = rng.choice(HTTP_MUTATORS)
        names.append(change.__name__)
        data = change(rng, data, other)
    return data, names


def flip_in_head(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change a byte of the head."""
    mutant = bytearray(data)
    if end := _end_of_head(data):
        mutant[rng.randrange(end)] = rng.randrange(256)
    return bytes(mutant)


def insert_in_head(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Insert bytes that parsers handle differently."""
    at = rng.randrange(_end_of_head(data) + 1)
    return data[:at] + rng.choice(_ODD) + data[at:]


def replace_number(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Replace a number in the head, such as the length."""
    numbers = list(_DIGITS.finditer(data, 0, _end_of_head(data)))
    return _replaced(data, rng.choice(numbers), rng.choice(_NUMBERS)) if numbers else data


def change_line(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Add, repeat, remove or swap lines of the head."""
    lines = data[: _end_of_head(data)].split(b"\r\n")
    at = rng.randrange(len(lines))
    change = rng.randrange(4)
    if change == 0:
        lines.insert(at, rng.choice(_LINES))
    elif change == 1:
        lines.insert(at, lines[at])
    elif change == 2:
        del lines[at]
    else:
        to = rng.randrange(len(lines))
        lines[at], lines[to] = lines[to], lines[at]
    return b"\r\n".join(lines) + data[_end_of_head(data) :]


def change_method(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Replace the first word."""
    return rng.choice(_METHODS) + data[max(0, data.find(b" ", 0, 40)) :]


def change_chunk_size(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Replace the size of a chunk, or add an extension."""
    sizes = list(_CHUNK.finditer(data, max(0, _end_of_head(data) - 2)))[:40]
    extended = (*_NUMBERS, b"5;a=b", b"g", b"ffffffffffffffff", b"5 ", b"5\n")
    return _replaced(data, rng.choice(sizes), rng.choice(extended), 1) if sizes else data


def change_boundary(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Damage one of a form's boundaries."""
    places = [found.start() for found in re.finditer(BOUNDARY, data)]
    if not places:
        return data
    at = rng.choice(places) + rng.randrange(len(BOUNDARY))
    return data[:at] + rng.choice(_ODD) + data[at + rng.randrange(2) :]


def cut(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Truncate the request, as a client that disconnects."""
    return data[: rng.randrange(1, len(data) + 1)] if data else data


def pipeline(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Append another request, complete or truncated, on the same connection."""
    return data + other[: len(other) if rng.random() < 0.5 else rng.randrange(len(other) + 1)]


HTTP_MUTATORS: Sequence[Mutator] = (
    flip_in_head,
    flip_in_head,
    insert_in_head,
    replace_number,
    change_line,
    change_line,
    change_method,
    change_chunk_size,
    change_boundary,
    cut,
    pipeline,
)


def _end_of_head(data: bytes) -> int:
    end = data.find(b"\r\n\r\n")
    return len(data) if end < 0 else end


def _replaced(data: bytes, found: re.Match[bytes], by: bytes, group: int = 0) -> bytes:
    return data[: found.start(group)] + by + data[found.end(group) :]
