"""A run as a row of a table, for the terminal and for a page. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from load_tests.generator.statistics import Report
from load_tests.scenarios.sweep import Rung, Step, error_share, refused_share

NOTHING = "–"
HEADER = (
    "load",
    "offered/s",
    "answered/s",
    "goodput/s",
    "p50 ms",
    "p99 ms",
    "refused",
    "refusal p99 ms",
    "errors",
    "batch mean",
    "server CPU ms/image",
    "client cores",
)
_FIRST_WIDTH, _WIDTH = 12, 7
_TWO_LINES = [name.split(" ", 1) for name in HEADER]


def of_rung(rung: Rung) -> list[str]:
    """Return the cells of a closed loop, which has no offered rate."""
    return cells(
        f"{rung.clients} client{'s' if rung.clients > 1 else ''}", None, rung.measured.report
    )


def of_step(step: Step) -> list[str]:
    """Return the cells of an open loop."""
    return cells(f"{step.share:g} ×", step.offered, step.measured.report)


def cells(name: str, offered: float | None, report: Report) -> list[str]:
    """Return one text per column of HEADER."""
    return [
        name,
        _number(offered, ".1f"),
        _number(report.throughput, ".1f"),
        _number(report.goodput, ".1f"),
        _number(report.latency_ms.get("p50"), ".1f"),
        _number(report.latency_ms.get("p99"), ".1f"),
        _number(refused_share(report), ".1%"),
        _number(report.refusal_ms.get("p99"), ".1f"),
        _number(error_share(report), ".1%"),
        _number(report.batch_size_mean, ".2f"),
        _number(report.server_cpu_ms_per_image, ".2f"),
        _number(report.client_cores, ".2f"),
    ]


def heading() -> str:
    """Return the header for a terminal, on two lines."""
    above = [words[0] if len(words) > 1 else "" for words in _TWO_LINES]
    return f"{line(above)}\n{line([words[-1] for words in _TWO_LINES])}"


def line(row: Sequence[str]) -> str:
    """Return a row for a terminal, in columns as wide as the header's words."""
    first, *others = row
    widths = [max(_WIDTH, *map(len, words)) + 2 for words in _TWO_LINES[1:]]
    return f"{first:<{_FIRST_WIDTH}}" + "".join(
        f"{cell:>{width}}" for cell, width in zip(others, widths, strict=True)
    )


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else format(value, form)
