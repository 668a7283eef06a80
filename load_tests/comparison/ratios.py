"""Medians, ranges and ratios to the bare loop from interleaved rounds, and their tables. Pure.

Ratios use only figures of the same block, which were measured one right after the other, because a
shared machine drifts by more than the differences that matter.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from load_tests.errors import MeasurementFailed

BARE = "bare loop"
BARE_ALL_CORES = "bare loop, a thread per core"
ONE, OVERLOAD = "one client", "overload"
_FIGURES = ("per_s", "cpu_ms", "p50_ms", "p99_ms", "goodput", "client_cpu_ms", "resident_mb")


@dataclass(frozen=True)
class Measured:
    """One contestant under one load in one round; latencies in ms, None if not measured."""

    images: str
    round: int
    block: str  # figures of the same block can be compared
    name: str
    load: str  # `N clients`, `one client` or `overload`
    per_s: float
    cpu_ms: float | None  # per answered image
    p50_ms: float | None
    p99_ms: float | None = None
    goodput: float | None = None  # answered within the deadline, per second
    failed: int = 0
    client_cpu_ms: float | None = None  # this driver's, per answered image
    resident_mb: float | None = None


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds: median, minimum and maximum."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values; raises MeasurementFailed if there are none."""
        if not values:
            raise MeasurementFailed("no round measured this figure")
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Standing:
    """One contestant under one load on one set of images, over all rounds."""

    images: str
    load: str
    name: str
    rounds: int
    failed: int
    figures: dict[str, Spread]


def standings(measured: Sequence[Measured]) -> list[Standing]:
    """Summarise all rounds; the ratios are first computed within their block."""
    keys = dict.fromkeys((m.images, m.load, m.name) for m in measured)
    return [
        _standing([m for m in measured if (m.images, m.load, m.name) == key], measured)
        for key in keys
    ]


def _standing(own: Sequence[Measured], measured: Sequence[Measured]) -> Standing:
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float | None) -> None:
        if value is not None:
            figures.setdefault(name, []).append(value)

    for m in own:
        for name in _FIGURES:
            note(name, getattr(m, name))
        for name, value in _ratios(m, measured).items():
            note(name, value)
    return Standing(
        images=own[0].images,
        load=own[0].load,
        name=own[0].name,
        rounds=len(own),
        failed=sum(m.failed for m in own),
        figures={name: Spread.of(values) for name, values in figures.items()},
    )


def _ratios(m: Measured, measured: Iterable[Measured]) -> dict[str, float | None]:
    same_block = {
        b.name: b
        for b in measured
        if (b.images, b.round, b.block, b.load) == (m.images, m.round, m.block, m.load)
    }
    bare, all_cores = same_block.get(BARE), same_block.get(BARE_ALL_CORES)
    if m.load == OVERLOAD or bare is None:
        return {}
    if m.load == ONE:
        return {
            "p50_ratio": _over(m.p50_ms, bare.p50_ms),
            "p50_ratio_all_cores": _over(m.p50_ms, all_cores.p50_ms if all_cores else None),
        }
    return {
        "throughput_ratio": _over(m.per_s, bare.per_s),
        "cpu_ratio": _over(m.cpu_ms, bare.cpu_ms),
    }


def _over(value: float | None, bare: float | None) -> float | None:
    return None if value is None or not bare else value / bare


# heading, figure, decimals
_CLOSED = (
    ("images/s", "per_s", 1),
    ("× loop", "throughput_ratio", 3),
    ("CPU ms", "cpu_ms", 2),
    ("× loop", "cpu_ratio", 3),
    ("p50 ms", "p50_ms", 0),
    ("p99 ms", "p99_ms", 0),
)
_ONE = (
    ("p50 ms", "p50_ms", 1),
    ("× one thread", "p50_ratio", 3),
    ("× all cores", "p50_ratio_all_cores", 3),
    ("p99 ms", "p99_ms", 1),
)
_OVERLOAD = (
    ("answered/s", "per_s", 1),
    ("in time/s", "goodput", 1),
    ("p50 ms", "p50_ms", 0),
    ("p99 ms", "p99_ms", 0),
    ("CPU ms", "cpu_ms", 2),
    ("MB", "resident_mb", 0),
)


def tables(found: Sequence[Standing]) -> str:
    """Return one table per set of images and load, best first: medians, and ranges of ratios."""
    groups = dict.fromkeys((s.images, s.load) for s in found)
    return "\n\n".join(
        _table(images, load, [s for s in found if (s.images, s.load) == (images, load)])
        for images, load in groups
    )


def as_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns are also aligned in a terminal."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return " | ".join([f"| {first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in rest)]) + " |"

    ruler = "|".join(["", *("-" * (width + 2) for width in widths), ""])
    return "\n".join([line(heads), ruler, *map(line, rows)])


def _table(images: str, load: str, group: Sequence[Standing]) -> str:
    columns = {ONE: _ONE, OVERLOAD: _OVERLOAD}.get(load, _CLOSED)
    order, descending = {ONE: ("p50_ms", False), OVERLOAD: ("goodput", True)}.get(
        load, ("per_s", True)
    )
    sign = -1 if descending else 1
    rank: Callable[[Standing], float] = lambda s: sign * _median(s, order)  # noqa: E731
    rows = [
        [s.name, *(_cell(s, figure, digits) for _, figure, digits in columns), str(s.failed)]
        for s in sorted(group, key=rank)
    ]
    heads = ["server", *(head for head, _, _ in columns), "failed"]
    return f"{images}, {load}\n\n{as_table(heads, rows)}"


def _median(standing: Standing, figure: str) -> float:
    return standing.figures[figure].median if figure in standing.figures else float("inf")


def _cell(standing: Standing, figure: str, digits: int) -> str:
    spread = standing.figures.get(figure)
    if spread is None:
        return "–"
    text = f"{spread.median:.{digits}f}"
    if "ratio" in figure and standing.rounds > 1:
        text += f" ({spread.low:.2f}–{spread.high:.2f})"
    return text
