"""The outcomes of a run as they arrive, and its progress."""

from dataclasses import dataclass, field

from load_tests.generator.loops import Outcome
from load_tests.generator.statistics import quantiles_ms

RATE_S = 1.0  # window of the answers per second
QUANTILES_S = 5.0  # window of the latency quantiles


@dataclass(frozen=True)
class Progress:
    """A run so far. Latencies in milliseconds over QUANTILES_S; None without an answer."""

    elapsed_s: float
    done: int
    answered: int
    refused: int
    errors: int
    vanished: int
    answered_per_s: float
    p50_ms: float | None
    p99_ms: float | None


@dataclass
class Ledger:
    """Every outcome, in the order of completion. A request only calls `outcomes.append`."""

    outcomes: list[Outcome] = field(default_factory=list)
    _read: int = 0
    _answered: int = 0
    _refused: int = 0
    _errors: int = 0

    def progress(self, started: float, now: float) -> Progress:
        """Count the outcomes since the last call; both times are of `time.monotonic()`."""
        end = len(self.outcomes)
        for outcome in self.outcomes[self._read : end]:
            self._answered += outcome.answered
            self._refused += outcome.refused
            self._errors += outcome.error is not None
        self._read = end
        recent = [o for o in self._since(now - QUANTILES_S) if o.answered]
        quantiles = quantiles_ms([o.latency_s for o in recent])
        last = sum(o.ended_at_s > now - RATE_S for o in recent)
        return Progress(
            elapsed_s=now - started,
            done=end,
            answered=self._answered,
            refused=self._refused,
            errors=self._errors,
            vanished=end - self._answered - self._refused - self._errors,
            answered_per_s=last / min(RATE_S, max(now - started, 1e-9)),
            p50_ms=quantiles.get("p50"),
            p99_ms=quantiles.get("p99"),
        )

    def _since(self, moment: float) -> list[Outcome]:
        begin = len(self.outcomes)
        while begin and self.outcomes[begin - 1].ended_at_s > moment:
            begin -= 1
        return self.outcomes[begin:]
