"""Builds HTTP/1.1 requests with images and forms. Pure."""

from collections.abc import Sequence

BOUNDARY = b"tidegate-fuzz-boundary"
_FORM = b"multipart/form-data; boundary=" + BOUNDARY


def request(
    target: bytes,
    body: bytes,
    content_type: bytes = b"application/octet-stream",
    headers: Sequence[bytes] = (),
) -> bytes:
    """Return a POST with a Content-Length."""
    return _head(target, content_type, [b"Content-Length: %d" % len(body), *headers]) + body


def multipart(target: bytes, field: bytes, files: Sequence[bytes]) -> bytes:
    """Return a POST of a form (RFC 7578) with one part named `field` for each of `files`."""
    return request(target, form(field, files), _FORM)


def form(field: bytes, files: Sequence[bytes]) -> bytes:
    """Return the body of a form with the boundary BOUNDARY."""
    disposition = b'Content-Disposition: form-data; name="%s"; filename="%d"\r\n'
    parts = [
        b"--%s\r\n%sContent-Type: application/octet-stream\r\n\r\n%s\r\n"
        % (BOUNDARY, disposition % (field, number), data)
        for number, data in enumerate(files)
    ]
    return b"".join(parts) + b"--%s--\r\n" % BOUNDARY


def chunked(target: bytes, body: bytes, size: int, trailers: bytes = b"") -> bytes:
    """Return a POST whose body is sent in chunks of `size` bytes."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    head = _head(target, b"application/octet-stream", [b"Transfer-Encoding: chunked"])
    return head + chunks + b"0\r\n" + trailers + b"\r\n"


def get(target: bytes, headers: Sequence[bytes] = (), method: bytes = b"GET") -> bytes:
    """Return a request without a body."""
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: 127.0.0.1", *headers, b"", b""]
    return b"\r\n".join(lines)


def _head(target: bytes, content_type: bytes, headers: Sequence[bytes]) -> bytes:
    first = [b"POST %s HTTP/1.1" % target, b"Host: 127.0.0.1", b"Content-Type: " + content_type]
    return b"\r\n".join([*first, *headers, b"", b""])
