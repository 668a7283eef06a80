"""Style of the load tests' plots, and their conversion to SVG for an HTML page.

Lines differ in marker and dash as well as in colour (Okabe & Ito's palette), so that they can be
distinguished in grey and by colour-blind readers. Text remains text in the SVG.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#6b6b6b"
MEDIAN: dict[str, Any] = {"color": GREEN, "marker": "o", "linestyle": "-"}
P90: dict[str, Any] = {"color": BLUE, "marker": "s", "linestyle": "--"}
P99: dict[str, Any] = {"color": ORANGE, "marker": "^", "linestyle": "-."}
P999: dict[str, Any] = {"color": RED, "marker": "D", "linestyle": ":"}
REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 1.1, "linestyle": (0, (6, 3)), "zorder": 1}
LIMIT: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": (0, (1, 2)), "zorder": 1}
_SIZE_IN = (6.6, 4.0)
_STYLE: dict[Any, Any] = {  # Any, because the stubs list all keys as literals
    "svg.hashsalt": "load_tests",  # otherwise the ids in the file are random
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # shipped with matplotlib: the same layout everywhere
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
}


def drawn(name: str, draw: Callable[[Axes], None]) -> str:
    """Call `draw` on the axes of a new figure; return it as an `<svg>` element.

    Its ids begin with `name`, because several figures share a page and matplotlib numbers the
    parts of each from 1.
    """
    with rc_context():
        rcdefaults()  # the user's settings file must not change the plot
        rcParams.update(_STYLE)
        figure = Figure(figsize=_SIZE_IN, layout="constrained")
        draw(figure.subplots())
        file = io.BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue().decode("utf-8")
    element = text[text.index("<svg") :]
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", element)


def legend_below(axes: Axes) -> None:
    """Put the legend below the plot, so that it covers nothing."""
    handles, names = axes.get_legend_handles_labels()
    columns = min(len(names), 4) if max(map(len, names)) < 16 else 2
    axes.figure.figure.legend(
        handles, names, loc="outside lower center", ncols=columns, markerscale=1.5
    )


def logarithmic(axis: Axis) -> None:
    """Label 1, 2 and 5 of each decade as plain numbers; `axis` must already be logarithmic."""
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
