"""The images of a load test, converted once into complete HTTP requests."""

import hashlib
import mimetypes
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from load_tests.client.synthetic_images import Picture, generated_mix

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
Form = Literal["raw", "multipart"]


@dataclass(frozen=True)
class Target:
    """The URL of the server; plain HTTP only, to keep the client's cost low."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Parse `http://host:port/path?query`; raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected http://host:port/path, got {url!r}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or 80, path)


def payloads(
    folder: Path | None,
    target: Target,
    deadline_ms: float | None = None,
    form: Form = "raw",
    seed: int = 0,
) -> list[bytes]:
    """Return requests for every image below `folder`, or without a folder for a generated mix.

    Raises FileNotFoundError if the folder has no image.
    """
    if folder is not None:
        return build_requests(find_images(folder), target, deadline_ms, form)
    return requests_of(generated_mix(seed=seed), target, deadline_ms, form)


def find_images(folder: Path) -> list[Path]:
    """Return every image file below `folder`, sorted; raises FileNotFoundError if there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise FileNotFoundError(f"no image below {folder} (suffixes {', '.join(sorted(SUFFIXES))})")
    return found


def build_requests(
    paths: Sequence[Path], target: Target, deadline_ms: float | None, form: Form = "raw"
) -> list[bytes]:
    """Return the requests of image files; see `requests_of`."""
    pictures = (Picture(path.name, path.read_bytes()) for path in paths)
    return requests_of(pictures, target, deadline_ms, form)


def requests_of(
    pictures: Iterable[Picture], target: Target, deadline_ms: float | None, form: Form = "raw"
) -> list[bytes]:
    """Return one complete HTTP/1.1 request per image, so that sending it is a single write.

    The body is the image, or a multipart form with the image as its part `file`.
    """
    return [_request(picture, target, deadline_ms, form) for picture in pictures]


def shuffled_forever(requests: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Yield every request once per epoch, each epoch in a new order that the seed determines."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(requests, len(requests))


def _request(picture: Picture, target: Target, deadline_ms: float | None, form: Form) -> bytes:
    content_type, body = _multipart(picture) if form == "multipart" else _raw(picture)
    head = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    if deadline_ms is not None:
        head.append(f"X-Request-Timeout-Ms: {deadline_ms:.0f}")
    return "\r\n".join([*head, "", ""]).encode("ascii") + body


def _raw(picture: Picture) -> tuple[str, bytes]:
    return mimetypes.guess_type(picture.name)[0] or "application/octet-stream", picture.data


def _multipart(picture: Picture) -> tuple[str, bytes]:
    """(content type, body) of a form (RFC 7578) with one part, `file`."""
    boundary = hashlib.sha256(picture.data).hexdigest()  # no image contains its own digest
    name = picture.name.replace('"', "%22").encode("utf-8")
    part = [
        f"--{boundary}".encode("ascii"),
        b'Content-Disposition: form-data; name="file"; filename="%s"' % name,
        f"Content-Type: {_raw(picture)[0]}".encode("ascii"),
        b"",
        picture.data,
        f"--{boundary}--".encode("ascii"),
        b"",
    ]
    return f"multipart/form-data; boundary={boundary}", b"\r\n".join(part)
