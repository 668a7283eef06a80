"""Outcomes of requests for the tests."""

from load_tests.generator.loops import Outcome


def answered(at_s: float, latency_s: float = 0.01) -> Outcome:
    return Outcome(latency_s, latency_s, 0.0, status=200, at_s=at_s)


def rejected(at_s: float, latency_s: float = 0.01) -> Outcome:
    return Outcome(latency_s, latency_s, 0.0, status=422, code="out-of-distribution", at_s=at_s)


def failed(at_s: float, *, status: int | None = None, error: str | None = None) -> Outcome:
    return Outcome(0.01, 0.01, 0.0, status=status, error=error, at_s=at_s)
