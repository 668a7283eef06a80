"""The n-th mutant of a campaign: the same seed and number give the same bytes. Pure."""

import random
from dataclasses import dataclass
from typing import Literal

from load_tests.fuzz import wire
from load_tests.fuzz.http_mutators import mutate_http
from load_tests.fuzz.http_seeds import BATCH, CLASSIFY, http_seeds
from load_tests.fuzz.mutators import mutate
from load_tests.fuzz.seeds import Seed, image_seeds

Kind = Literal["raw", "multipart", "batch", "chunked", "http"]
_SHARES: tuple[tuple[float, Kind], ...] = (
    (0.72, "raw"),
    (0.84, "multipart"),
    (0.88, "batch"),
    (1.0, "chunked"),
)
_STRIDE = 1_000_003  # distance between the random seeds of two campaigns


@dataclass(frozen=True)
class Mutant:
    """One request to send; `origin` names its seed and its changes."""

    number: int
    kind: Kind
    origin: str
    request: bytes
    image: bytes | None = None  # of kind raw, multipart and chunked


def mutant(seed: int, number: int, http_share: float) -> Mutant:
    """Return mutant `number` of the campaign `seed`; a share `http_share` has damaged HTTP."""
    rng = random.Random(seed * _STRIDE + number)
    if rng.random() < http_share:
        first, second = rng.choice(http_seeds()), rng.choice(http_seeds())
        data, names = mutate_http(rng, first.data, second.data)
        return Mutant(number, "http", _origin(first.name, names), data)
    seeds = image_seeds()
    one, other = rng.choice(seeds), rng.choice(seeds)
    image, names = mutate(rng, one.data, other.data)
    draw = rng.random()
    kind = next(kind for share, kind in _SHARES if draw < share)
    return of_image(Seed(_origin(one.name, names), image), kind, number, other.data)


def of_image(seed: Seed, kind: Kind = "raw", number: int = -1, other: bytes = b"") -> Mutant:
    """Return an image as a request of this kind; a batch has `other` as its second image."""
    image = seed.data
    if kind == "batch":
        request = wire.multipart(BATCH, b"files", [image, other])
        return Mutant(number, kind, seed.name, request)
    if kind == "multipart":
        request = wire.multipart(CLASSIFY, b"file", [image])
    elif kind == "chunked":
        request = wire.chunked(CLASSIFY, image, 4096)
    else:
        request = wire.request(CLASSIFY, image)
    return Mutant(number, kind, seed.name, request, image)


def _origin(name: str, changes: list[str]) -> str:
    return " ".join([name, *changes])
