"""Types of the dashboards: rows of panels, each with its queries and an explanation.

In a query `$job`, `$instance`, `$model`, `$version` and `$window` are the dashboard's variables.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

WINDOWS = ("10m", "1h", "6h", "1d")  # the windows that rules/drift.yml records
REPLICA = 'job="$job",instance=~"$instance"'
REPLICA_ROLLOUT = f'{REPLICA},model="$model"'  # of metrics that are not about one version
MODEL = 'job="$job",model="$model",version=~"$version"'
REPLICA_MODEL = f'{REPLICA},model="$model",version=~"$version"'
CLASSIFY = f'{REPLICA},route=~".*/classify"'
# The routes that answer images, of every protocol; the same in prometheus/rules/service.yml.
CLASSIFYING = ".*(/classify(/batch)?|/infer|/ModelInfer|/invocations|[/:]predict|/predictions/.*)"
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Query:
    """A PromQL expression and the legend of its series."""

    expr: str
    legend: str = ""
    exemplars: bool = False  # shown as points that lead to traces


@dataclass(frozen=True)
class Panel:
    """One graph, number or table; `limit` draws an alert's threshold as a line."""

    title: str
    about: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Literal["lines", "stacked", "stat", "table", "heatmap"] = "lines"
    width: int = 8  # of 24
    limit: float | None = None


@dataclass(frozen=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Board:
    """One dashboard; `variables` are those in addition to the data source and the job."""

    uid: str
    title: str
    about: str
    variables: Sequence[Literal["instance", "model", "version", "window"]]
    rows: Sequence[Row]


def quantile(q: float, metric: str, select: str, *, exemplars: bool = False) -> Query:
    rate = f"sum by (le) (rate({metric}_bucket{{{select}}}{RATE}))"
    return Query(f"histogram_quantile({q}, {rate})", f"p{q * 100:g}", exemplars)


def mean(metric: str, select: str, by: str = "") -> str:
    total, count = (
        f"sum{by} (rate({metric}_{part}{{{select}}}{RATE}))" for part in ("sum", "count")
    )
    return f"{total} / ({count} > 0)"


def heat(metric: str, select: str) -> Query:
    return Query(f"sum by (le) (increase({metric}_bucket{{{select}}}{RATE}))", "{{le}}")


def recorded(name: str, legend: str = "") -> Query:
    """Return a recorded series; the legend ends with the version, as a rollout has two."""
    return Query(f"{name}{{{MODEL}}}", f"{legend} {{{{version}}}}".strip())


def stat(title: str, about: str, expr: str, unit: str = "short") -> Panel:
    return Panel(title, about, [Query(expr)], unit, "stat", width=4)
