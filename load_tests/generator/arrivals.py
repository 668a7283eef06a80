"""Intended send times of requests. Pure: offsets in seconds, no clock."""

import random
from collections.abc import Iterator


def constant(rate: float, duration_s: float) -> Iterator[float]:
    """Yield evenly spaced offsets in [0, duration_s)."""
    for i in range(int(rate * duration_s)):
        yield i / rate


def poisson(rate: float, duration_s: float, seed: int) -> Iterator[float]:
    """Yield a Poisson process of `rate` per second on [0, duration_s): independent users."""
    rng = random.Random(seed)
    at = rng.expovariate(rate)
    while at < duration_s:
        yield at
        at += rng.expovariate(rate)
