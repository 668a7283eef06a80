"""Compares the requests in some stretches of time with those in others. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from load_tests.generator.loops import Outcome
from load_tests.generator.statistics import quantiles_ms


@dataclass(frozen=True)
class Window:
    """A stretch of time, on the clock of time.monotonic()."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Return its length."""
        return self.end_s - self.begin_s

    def before(self) -> "Window":
        """Return the window of the same length that ends when this one begins."""
        return Window(self.begin_s - self.length_s, self.begin_s)

    def after(self) -> "Window":
        """Return the window of the same length that begins when this one ends."""
        return Window(self.end_s, self.end_s + self.length_s)

    def has(self, outcome: Outcome) -> bool:
        """Return whether the request was in flight at some time in it."""
        return outcome.at_s < self.end_s and outcome.ended_at_s > self.begin_s


@dataclass(frozen=True)
class Tally:
    """The requests in some windows. Latencies in milliseconds; None without an answer."""

    requests: int
    failures: dict[str, int]  # by status or error
    p50_ms: float | None
    p99_ms: float | None

    @property
    def failed(self) -> int:
        """Return the number of requests without an answer."""
        return sum(self.failures.values())


def tally(outcomes: Iterable[Outcome], windows: Sequence[Window]) -> Tally:
    """Count the requests that were in flight in one of the windows."""
    inside = [o for o in outcomes if any(window.has(o) for window in windows)]
    quantiles = quantiles_ms([o.latency_s for o in inside if o.answered])
    failures = Counter(str(o.error or o.status) for o in inside if not o.answered)
    return Tally(
        len(inside),
        dict(sorted(failures.items())),
        quantiles.get("p50"),
        quantiles.get("p99"),
    )
