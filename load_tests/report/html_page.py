"""One self-contained HTML page: headline figures, tables, plots, and the hardware.

The page loads no external resources. Every text is escaped here, so that a problem code or a
command line with `<script>` in it remains text; only a plot's SVG is inserted without escaping.
The module does not depend on what was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d8d8d8;
  --page: #f6f6f4; --card: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --soft: #a6a6a2; --line: #3c3c3a;
  --page: #171716; --card: #222221; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem; color: var(--ink);
  background: var(--page); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.25rem 0 .5rem; }
p { margin: .3rem 0; } .soft, figcaption, dt { color: var(--soft); }
.soft, figcaption { font-size: .875rem; }
code { font: .8125rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; white-space: pre; }
/* the first column names the row; the second of two is prose, not a number */
:is(th, td):is(:first-child, :nth-child(2):last-child) { text-align: left; }
thead th { border-bottom: 1px solid var(--line); font-weight: 600; vertical-align: bottom;
  white-space: normal; }
tbody tr + tr > * { border-top: 1px solid var(--line); } tbody th { font-weight: normal; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr));
  gap: .6rem; margin: 1rem 0 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .55rem .8rem; }
dt { font-size: .8125rem; } dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: .8rem; }
figure { margin: 0; padding: .6rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }
/* the plots are drawn in dark ink: they keep a light ground in both themes */
figure svg { display: block; width: 100%; height: auto; background: #fff; border-radius: 3px; }
figcaption { padding: .45rem .2rem 0; }
.machine dd { font-size: .875rem; overflow-wrap: anywhere; }
@media print { body { background: #fff; max-width: none; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Figures:
    """Headline figures: names, and values with units."""

    values: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows of texts under a header; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """A trusted SVG element, its accessible name, and a caption."""

    name: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Plots:
    """Plots, side by side if the window is wide enough."""

    title: str
    plots: Sequence[Plot]


Part = Figures | Table | Plots


def page(
    title: str, record: Mapping[str, object], parts: Iterable[Part], introduction: str = ""
) -> str:
    """Return the whole document.

    `record` has the first entries of a saved result (`load_tests.report.json_file`): the command,
    the time and the machine; other entries are ignored.
    """
    head = f"<h1>{escape(title)}</h1>" + _paragraph(introduction)
    body = head + "".join(map(_part, parts)) + _provenance(record)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )


def _part(part: Part) -> str:
    match part:
        case Figures():
            return _definitions("figures", part.values)
        case Table():
            return _table(part)
        case Plots():
            return _heading(part.title) + _plots(part.plots)


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = "".join(f"<tr>{_row(row)}</tr>\n" for row in table.rows)
    return (
        _heading(table.title)
        + f'<div class="scroll"><table>\n<thead><tr>{header}</tr></thead>\n'
        + f"<tbody>\n{rows}</tbody>\n</table></div>\n"
        + _paragraph(table.note)
    )


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    return f'<th scope="row">{escape(first)}</th>' + "".join(
        f"<td>{escape(cell)}</td>" for cell in others
    )


def _plots(plots: Iterable[Plot]) -> str:
    return f'<div class="plots">\n{"".join(map(_plot, plots))}</div>\n'


def _plot(plot: Plot) -> str:
    name = escape(plot.name, quote=True)
    note = f"<figcaption>{escape(plot.note)}</figcaption>" if plot.note else ""
    return f'<figure role="group" aria-label="{name}">{plot.svg}{note}</figure>\n'


def _provenance(record: Mapping[str, object]) -> str:
    machine = record.get("machine")
    known = dict(_flat(machine)) if isinstance(machine, Mapping) else {}
    return (
        _heading("Measured on")
        + _definitions("figures machine", list(known.items()))
        + f'<p class="soft">at {escape(str(record.get("measured_at", "an unknown time")))}, by</p>'
        + f"<p><code>{escape(str(record.get('command', '')))}</code></p>\n"
    )


def _flat(machine: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """Yield a name and a text per fact; nested mappings (the packages) are flattened."""
    for name, value in machine.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        elif value is not None:
            yield str(name).replace("_", " "), str(value)


def _definitions(kind: str, pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>\n" for k, v in pairs)
    return f'<dl class="{kind}">\n{items}</dl>\n'


def _heading(title: str) -> str:
    return f"<h2>{escape(title)}</h2>\n"


def _paragraph(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>\n' if text else ""
