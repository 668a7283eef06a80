"""Tables and numbers of model cards, in Markdown. Undefined values are printed as a dash."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tidegate.service.bundle.evidence import Share

UNDEFINED = "–"


def table(header: tuple[str, ...], rows: Iterable[Iterable[object]]) -> str:
    """Return a table; cells may contain anything, as bars and line breaks are escaped."""
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def percent(share: float | None) -> str:
    """Return a share in percent with two decimals."""
    return UNDEFINED if share is None else f"{share:.2%}".replace("%", " %")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed number of decimals."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def change(value: float, digits: int = 3) -> str:
    """Return a difference with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(share: Share) -> str:
    """Return the limits of a share's 95 % interval, in percent."""
    return f"{100 * share.low:.2f} to {100 * share.high:.2f} %"


def measured(share: Share) -> str:
    """Return a share and its 95 % interval, in percent."""
    return f"{percent(share.value)} ({interval(share)})"


def count(how_many: int, what: str, several: str | None = None) -> str:
    """Return "1 image" or "1,200 images"."""
    return f"{how_many:,} {what if how_many == 1 else several or what + 's'}"


def picture(drawn: Collection[str], name: str, title: str) -> str:
    """Return a picture on a separate line, or an empty string if it was not drawn."""
    return f"\n![{title}]({name})\n" if name in drawn else ""


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
