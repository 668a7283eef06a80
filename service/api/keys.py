"""API keys: the file that lists them, and the client that each one belongs to. Pure.

A line of the file: NAME SHA256 SCOPES [RATE BURST CONCURRENT WEIGHT]
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SCOPES = ("classify", "feedback", "metrics", "admin")
COLUMNS = ("name", "sha256", "scopes", "rate", "burst", "concurrent", "weight")
MAX_KEYS = 1000
_REQUIRED = 3
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")
_PREFIX = "tidegate_"  # so that scanners for leaked secrets can recognise a key
_UNSET = "-"
_BOUNDS: dict[str, tuple[float, int]] = {
    "rate": (0, 1_000_000),
    "burst": (1, 1_000_000),
    "concurrent": (1, 1_000_000),
    "weight": (0.01, 1000),
}
_INTEGERS = {"burst", "concurrent"}


@dataclass(frozen=True, slots=True)
class Client:
    """A client with a key, and what it may do. None: the same as a client without a key."""

    name: str
    scopes: frozenset[str]
    rate: float | None = None  # images per second; 0: no limit
    burst: int | None = None  # images
    concurrent: int | None = None  # images in progress
    weight: float = 1.0  # of its share of the queue and of the upload memory

    @property
    def subject(self) -> str:
        """Return what its quota and shares are counted for; no address looks like it."""
        return f"key:{self.name}"


@dataclass(frozen=True, slots=True)
class Keyring:
    """The clients by the sha256 of their keys. A client may have several, to exchange them."""

    digests: tuple[bytes, ...] = ()
    clients: tuple[Client, ...] = ()  # of the same length

    def find(self, key: bytes) -> Client | None:
        """Return the client of a key. Takes the same time whichever key it is, if any."""
        digest = hashlib.sha256(key).digest()
        found = None
        for known, client in zip(self.digests, self.clients, strict=True):
            if hmac.compare_digest(known, digest):
                found = client
        return found

    def by_name(self) -> dict[str, Client]:
        """Return each client once."""
        return {client.name: client for client in self.clients}


def new_key() -> str:
    """Return a random key."""
    return _PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """Return what a key file has of a key."""
    return hashlib.sha256(key.encode("utf-8")).hexdigest()


def parse_keys(content: bytes) -> Keyring:
    """Return the keys in a file. Raises ValueError with the number of the first wrong line."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("the file is not UTF-8") from None
    digests: dict[bytes, int] = {}  # → line
    clients: dict[str, tuple[Client, int]] = {}
    ring: list[Client] = []
    for number, words in _lines(text):
        try:
            client, digest = parse_line(words)
            if digest in digests:
                raise ValueError(f"this sha256 is also in line {digests[digest]}")
            same, first = clients.setdefault(client.name, (client, number))
            if same != client:
                raise ValueError(f"{client.name} has other scopes or limits in line {first}")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        digests[digest] = number
        ring.append(client)
    if not ring:
        raise ValueError("the file has no keys: `tidegate key new NAME` makes one")
    if len(ring) > MAX_KEYS:
        raise ValueError(f"the file has {len(ring):,} keys, but at most {MAX_KEYS:,} are allowed")
    return Keyring(tuple(digests), tuple(ring))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if words:
            yield number, words


def parse_line(words: Sequence[str]) -> tuple[Client, bytes]:
    """Return the client and the digest of its key in a line. Raises ValueError."""
    if not _REQUIRED <= len(words) <= len(COLUMNS):
        raise ValueError(
            f"{len(words)} columns instead of {' '.join(COLUMNS)}; the last 4 may be left out"
        )
    name, digest, scopes, *limits = words
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r:.80} is not a name: a letter or digit, then up to 63 of them, '.', '_' or '-'"
        )
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the sha256 of a key has 64 lower-case hexadecimal digits")
    limits += [_UNSET] * (len(COLUMNS) - len(words))
    rate, burst, concurrent, weight = map(_parse_limit, COLUMNS[_REQUIRED:], limits)
    return Client(
        name,
        _parse_scopes(scopes),
        rate,
        None if burst is None else int(burst),
        None if concurrent is None else int(concurrent),
        1.0 if weight is None else weight,
    ), bytes.fromhex(digest)


def _parse_scopes(text: str) -> frozenset[str]:
    scopes = text.split(",")
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ValueError(f"{unknown[0]!r:.40} is not a scope; the scopes are {', '.join(SCOPES)}")
    return frozenset(scopes)


def _parse_limit(name: str, word: str) -> float | None:
    """Return a limit, or None for "-"."""
    if word == _UNSET:
        return None
    least, most = _BOUNDS[name]
    whole = name in _INTEGERS
    if _NUMBER.fullmatch(word) and not (whole and "." in word) and least <= float(word) <= most:
        return float(word)
    kind = "an integer" if whole else "a number"
    raise ValueError(f"{name} is {word!r:.40}, but must be {kind} from {least:g} to {most:,}, or -")
