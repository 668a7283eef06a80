"""The CPU time per image of one server relative to another, from interleaved windows. Pure."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Ratio:
    """The geometric mean of the pairs' ratios, with two standard errors to each side."""

    pairs: int
    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, reference: Sequence[float], changed: Sequence[float]) -> "Ratio":
        """Compare windows that were measured one right after the other; at least two pairs."""
        logs = [math.log(b / a) for a, b in zip(reference, changed, strict=True)]
        mean = statistics.fmean(logs)
        error = _STANDARD_ERRORS * statistics.stdev(logs) / math.sqrt(len(logs))
        return cls(len(logs), math.exp(mean), math.exp(mean - error), math.exp(mean + error))


def order(pairs: int) -> list[bool]:
    """Return whether each window is of the changed server: a drift affects both alike."""
    return [
        changed for pair in range(pairs) for changed in ((False, True), (True, False))[pair % 2]
    ]


def with_header(request: bytes, name: str, value: str) -> bytes:
    """Return a request with one more header field."""
    head, end, body = request.partition(b"\r\n\r\n")
    return head + f"\r\n{name}: {value}".encode("ascii") + end + body
