"""One connection, byte by byte: order, limits, upgrades, closing, and invalid HTTP/1.1."""

from __future__ import annotations

import contextlib
import re
import socket
import urllib.error
import urllib.request

import httpx
import pytest

from tests.server import PATIENCE_S, Server

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def connect(server: Server) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def exchange(server: Server, sent: bytes, *, half_close: bool = False) -> bytes:
    """Return all bytes that the server sends until it closes."""
    with connect(server) as connection:
        connection.sendall(sent)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


def post(image: bytes, *fields: bytes, path: bytes = b"/classify") -> bytes:
    length = b"Content-Length: %d" % len(image)
    head = [b"POST %s HTTP/1.1" % path, b"Host: x", length, *fields, b"", b""]
    return b"\r\n".join(head) + image


def chunked(image: bytes, *fields: bytes) -> bytes:
    head = [
        b"POST /classify HTTP/1.1",
        b"Host: x",
        b"Transfer-Encoding: chunked",
        *fields,
        b"",
        b"",
    ]
    return b"\r\n".join(head) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(image), image)


def resident_bytes(server: Server) -> int:
    with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def test_pipelined_requests_are_all_answered_in_order(server: Server) -> None:
    paths = [b"/livez", b"/nowhere", b"/readyz", b"/models"] * 50
    requests = [b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path for path in paths]

    answers = exchange(server, b"".join([*requests, LAST]))

    assert statuses(answers) == [200, 404, 200, 200] * 50 + [200]


def test_pipelined_uploads_are_all_answered_in_order(server: Server, chelsea: bytes) -> None:
    uploads = [post(chelsea), chunked(chelsea), post(b"no image")] * 4

    answers = exchange(server, b"".join([*uploads, LAST]))

    assert statuses(answers) == [200, 200, 415] * 4 + [200]


def test_a_pipelining_client_that_reads_no_answers_uses_no_memory(server: Server) -> None:
    flood = memoryview(b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n" * 345_000)
    exchange(server, LAST)
    before = resident_bytes(server)

    with connect(server) as connection, contextlib.suppress(TimeoutError):
        connection.settimeout(1)  # the server stops reading, so sending blocks
        while flood:
            flood = flood[connection.send(flood[: 1 << 16]) :]

    assert statuses(exchange(server, LAST)) == [200]
    assert resident_bytes(server) - before < 30_000_000
    assert flood, "everything was taken"


@pytest.mark.parametrize(
    "endless",
    [b"a:\r\n" * 16_384, b"a" * 65_536],
    ids=["lines", "one name"],
)
def test_endless_trailers_are_rejected(server: Server, endless: bytes) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = resident_bytes(server)

    with connect(server) as connection:
        connection.sendall(head + b"1\r\na\r\n0\r\n")
        for _ in range(200):
            connection.sendall(endless)
        answer = read_all(connection)

    assert statuses(answer) == [400]
    assert resident_bytes(server) - before < 30_000_000


def test_endless_chunk_extensions_are_rejected(server: Server) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = exchange(server, head + b"1;" + b"a" * 100_000)

    assert statuses(answer) == [400]


def test_a_body_in_chunks_of_one_byte_is_read(server: Server) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    answer = exchange(server, head + b"1\r\n\r\r\n" * 50_000 + b"0\r\nA: b\r\n\r\n" + LAST)

    assert statuses(answer) == [415, 200]


UPGRADES = {
    "h2c": [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAA"],
    "websocket": [b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"],
    "other": [b"Connection: upgrade", b"Upgrade: TLS/1.0"],
}


@pytest.mark.parametrize("offer", UPGRADES)
def test_an_upgrade_header_is_ignored(server: Server, chelsea: bytes, offer: str) -> None:
    fields = UPGRADES[offer]
    get = b"\r\n".join([b"GET /livez HTTP/1.1", b"Host: x", *fields, b"", b""])

    answers = exchange(
        server, get + post(chelsea, *fields) + chunked(chelsea, *fields) + get + LAST
    )

    assert statuses(answers) == [200] * 5


@pytest.mark.parametrize("offer", UPGRADES)
@pytest.mark.parametrize("framed", [post, chunked])
def test_the_body_after_an_upgrade_header_is_never_parsed_as_a_request(
    server: Server, offer: str, framed: object
) -> None:
    assert callable(framed)
    request = framed(LIVEZ, *UPGRADES[offer])
    head, _, body = request.partition(b"\r\n\r\n")
    with connect(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        httpx.get(f"{server.url}/livez", timeout=PATIENCE_S)  # by now the server has read the head
        connection.sendall(body + LAST)
        answers = read_all(connection)

    assert statuses(answers) == [415, 200]


@pytest.mark.parametrize("size", [1_000_000, 12_000_000, 40_000_000])
@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/classify", 413)])
def test_an_early_error_reaches_a_client_that_sends_its_whole_body_first(
    server: Server, size: int, path: str, status: int
) -> None:
    if path == "/classify":
        size += 17_000_000  # beyond the limit, so that its Content-Length is rejected
    url = f"{server.url}{path}"
    request = urllib.request.Request(url, data=bytes(size), method="POST")  # noqa: S310 - http
    for _ in range(5):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=PATIENCE_S)  # noqa: S310 - http
        refused.value.close()

        assert refused.value.code == status


def test_the_connection_closes_if_a_rejected_body_stalls(server: Server) -> None:
    request = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"

    assert statuses(exchange(server, request)) == [404]  # and the server closes


def test_the_connection_stays_open_if_a_rejected_body_arrives_completely(server: Server) -> None:
    answers = exchange(server, post(bytes(2_000_000), path=b"/nowhere") + LAST)

    assert statuses(answers) == [404, 200]


def test_a_client_that_waits_for_100_continue_can_be_rejected_without_it(server: Server) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"

    answer = exchange(server, head)

    assert statuses(answer) == [404]
    assert b"connection: close" in answer


def test_a_client_that_waits_for_100_continue_gets_it(server: Server, chelsea: bytes) -> None:
    request = post(chelsea, b"Expect: 100-continue", b"Connection: close")
    head, _, image = request.partition(b"\r\n\r\n")
    with connect(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(image)

        assert statuses(read_all(connection)) == [200]


def test_a_read_that_ends_inside_the_next_head_counts_only_that_head(server: Server) -> None:
    long = b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 60_000 + b"\r\n\r\n"
    with connect(server) as connection:
        connection.sendall(long + long[:50_000])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        connection.sendall(long[50_000:] + LAST)

        assert statuses(read_all(connection)) == [200, 200]


@pytest.mark.parametrize("split", range(1, 60, 7))
def test_a_head_may_be_split_anywhere(server: Server, chelsea: bytes, split: int) -> None:
    request = post(chelsea)
    end = request.index(b"\r\n\r\n") + 4
    cut = max(1, end - split)
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request[:cut])
        httpx.get(f"{server.url}/livez", timeout=PATIENCE_S)
        connection.sendall(request[cut:] + LAST)

        assert statuses(read_all(connection)) == [200, 200]


def test_a_client_that_shuts_down_its_sending_side_is_answered(
    server: Server, chelsea: bytes
) -> None:
    assert statuses(exchange(server, post(chelsea), half_close=True)) == [200]
    assert statuses(exchange(server, LIVEZ * 5, half_close=True)) == [200] * 5


def test_a_pipelining_client_that_disconnects_causes_no_error(
    server: Server, chelsea: bytes
) -> None:
    for _ in range(5):
        with connect(server) as connection:
            connection.sendall(post(chelsea) * 3 + LIVEZ * 3)

    assert statuses(exchange(server, LAST)) == [200]
    assert not [line for line in server.lines if "exception" in line]
    assert not [line for line in server.lines if line.get("level") == "error"]


MALFORMED = {
    "no Host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "two Hosts in HTTP/1.0": b"GET /livez HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "bad Host": b"GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 by name": b"GET /livez HTTP/2.0\r\nHost: x\r\n\r\n",
    "two lengths": post(b"abc", b"Content-Length: 4"),
    "length and chunks": chunked(b"abc", b"Content-Length: 3"),
    "signed length": b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc",
    "list of lengths": b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc",
    "chunks in HTTP/1.0": chunked(b"abc").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "gzip and chunks": chunked(b"abc").replace(b": chunked", b": gzip, chunked"),
    "chunks twice": chunked(b"abc", b"Transfer-Encoding: chunked"),
    "unknown coding": chunked(b"abc").replace(b": chunked", b": xchunked"),
    "folded field": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "bare LF": b"GET /livez HTTP/1.1\nHost: x\n\n",
    "space before colon": b"GET /livez HTTP/1.1\r\nHost : x\r\n\r\n",
    "bad name": b"GET /livez HTTP/1.1\r\nHost: x\r\nA(b): c\r\n\r\n",
    "NUL in a value": b"GET /livez HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
    "bad target": b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n",
    "bad chunk size": chunked(b"abc").replace(b"\r\n3\r\n", b"\r\nzz\r\n"),
    "bare LF after a chunk": chunked(b"abc").replace(b"abc\r\n", b"abc\n"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_gets_a_problem_and_closes_the_connection(server: Server, name: str) -> None:
    answer = exchange(server, MALFORMED[name] + LIVEZ)

    assert statuses(answer) == [400]
    assert b"content-type: application/problem+json" in answer
    assert b"connection: close" in answer
    (header,) = re.findall(rb"x-request-id: (\S+)", answer)
    assert b'"request_id":"%s"' % header in answer


def test_malformed_http_is_counted_and_logged_in_one_line(
    server: Server, client: httpx.Client
) -> None:
    def count() -> float:
        found = re.search(
            r'tidegate_requests_total\{route="malformed",status="400"\} (\S+)',
            client.get("/metrics").text,
        )
        return float(found[1]) if found else 0.0

    before = count()
    head = b"GET /livez HTTP/1.1\r\nX-Request-Id: mine-1\r\n\r\n"

    answer = exchange(server, head)

    assert b"x-request-id: mine-1" in answer
    assert count() == before + 1
    server.wait_for("request", request_id="mine-1")
    lines = [line for line in server.lines if line.get("request_id") == "mine-1"]
    assert [line["code"] for line in lines] == ["bad-request"]
    assert not [line for line in server.lines if line.get("logger") == "uvicorn.error"]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000 + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 70_000, 431),
    ],
)
def test_unsupported_heads_are_rejected_with_the_right_status(
    server: Server, head: bytes, status: int
) -> None:
    answer = exchange(server, head)

    assert statuses(answer) == [status]
    assert b"content-type: application/problem+json" in answer
    assert (b"\r\nallow: GET, HEAD, OPTIONS, POST\r\n" in answer) is (status == 405)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /livez HTTP/1.0\r\n\r\n",
        b"GET http://x/livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\r\n\r\nGET /livez HTTP/1.1\r\nHost: x:8000 \r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: [::1]:8000\r\nConnection: close\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
    ],
)
def test_unusual_but_valid_heads_are_answered(server: Server, request_head: bytes) -> None:
    assert statuses(exchange(server, request_head)) == [200]
