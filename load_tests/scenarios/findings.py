"""A measured quantity with its aim. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One quantity; `value` is None if it could not be measured, `met` if it has no aim."""

    quantity: str
    value: float | None
    unit: str
    aim: str = ""
    met: bool | None = None


def fact(quantity: str, value: float | None, unit: str) -> Finding:
    """Return a quantity without an aim."""
    return Finding(quantity, value, unit)


def at_most(quantity: str, value: float | None, limit: float, unit: str) -> Finding:
    """Return a quantity that should not exceed `limit`; an unmeasured one misses its aim."""
    return Finding(quantity, value, unit, f"≤ {limit:.4g}", value is not None and value <= limit)


def at_least(quantity: str, value: float | None, limit: float, unit: str) -> Finding:
    """Return a quantity that should reach `limit`; an unmeasured one misses its aim."""
    return Finding(quantity, value, unit, f"≥ {limit:.4g}", value is not None and value >= limit)


def ratio(value: float | None, reference: float | None) -> float | None:
    """Return value / reference, or None if either is missing or the reference is 0."""
    return value / reference if value is not None and reference else None


def as_lines(findings: Iterable[Finding]) -> str:
    """Return one line per finding: quantity, value, aim, and whether it was met."""
    return "\n".join(_line(finding) for finding in findings)


def _line(finding: Finding) -> str:
    value = "not measured" if finding.value is None else f"{finding.value:.4g} {finding.unit}"
    line = f"  {finding.quantity:<46}{value:<20}"
    if finding.met is not None:
        line += f"aim {finding.aim}: {'met' if finding.met else 'MISSED'}"
    return line.rstrip()
