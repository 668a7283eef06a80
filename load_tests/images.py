"""The images that a load test sends: a folder, turned once into ready HTTP requests."""

import mimetypes
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Target:
    """Where the load goes: plain HTTP only, so that the client costs little."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> "Target":
        """Read `http://host:port/path?query`; raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected http://host:port/path, got {url!r}")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or 80, path)


def find_images(folder: Path) -> list[Path]:
    """Every image file below `folder`, sorted; raises FileNotFoundError when there is none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise FileNotFoundError(
            f"no image below {folder} (looked for {', '.join(sorted(SUFFIXES))})"
        )
    return found


def build_requests(paths: Sequence[Path], target: Target, deadline_ms: float | None) -> list[bytes]:
    """One complete HTTP/1.1 request per image, so that sending is a single write."""
    return [_request(path, target, deadline_ms) for path in paths]


def _request(path: Path, target: Target, deadline_ms: float | None) -> bytes:
    body = path.read_bytes()
    content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    head = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    if deadline_ms is not None:
        head.append(f"X-Request-Timeout-Ms: {deadline_ms:.0f}")
    return "\r\n".join([*head, "", ""]).encode("ascii") + body


def shuffled_forever(requests: Sequence[bytes], seed: int) -> Iterator[bytes]:
    """Every request once per epoch, each epoch in a new order: the same for the same seed."""
    rng = random.Random(seed)
    while True:
        yield from rng.sample(requests, len(requests))
