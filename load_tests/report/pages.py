"""The HTML pages of the commands: `keep_run`, `keep_sweep`, and `write` for any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from load_tests.generator.run import Run
from load_tests.generator.statistics import Report
from load_tests.report import plots, table
from load_tests.report.html_page import Figures, Part, Plot, Plots, Table, page
from load_tests.report.json_file import record
from load_tests.report.text import as_text
from load_tests.scenarios.sweep import Sweep


def keep_run(path: Path | None, command: str, run: Run) -> None:
    """Write the page of one run to `path`; do nothing if it is None."""
    if path is not None:
        write(path, "Load run", command, run_parts(run))


def keep_sweep(path: Path | None, command: str, sweep: Sweep) -> None:
    """Write the page of a sweep to `path`; do nothing if it is None."""
    if path is not None:
        write(path, "Load sweep", command, sweep_parts(sweep))


def write(
    path: Path, title: str, command: str, parts: Sequence[Part], introduction: str = ""
) -> None:
    """Write any page to `path`, create its folders, and add the current machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(title, record(command, {}), parts, introduction)
    path.write_text(text, encoding="utf-8")


def run_parts(run: Run) -> list[Part]:
    """Return headline figures, the plots, and every fact of the report."""
    report, load = run.report, run.load
    loop = f"{load.rate:g} requests/s" if load.rate else f"{load.clients} clients, closed loop"
    figures = [
        ("load", f"{loop}, {load.duration_s:g} s"),
        ("answered", f"{report.throughput:.1f}/s"),
        *_goodput(report),
        *((f"{name} latency", f"{ms:.1f} ms") for name, ms in report.latency_ms.items()),
    ]
    return [Figures(figures), *_warnings(report.warnings), *_run_plots(run), _facts(report)]


def sweep_parts(sweep: Sweep) -> list[Part]:
    """Return headline figures, the curves, and the tables of their values."""
    return [
        Figures(_headlines(sweep)),
        *_warnings(warnings(sweep)),
        Plots("Curves", _curves(sweep)),
        Table(
            "Open loop, at shares of the capacity",
            table.HEADER,
            [table.of_step(step) for step in sweep.steps],
            "Latency is that of answered requests, from the intended send time. "
            "The runs were measured in a shuffled order.",
        ),
        Table(
            "Closed loop, to measure the capacity",
            table.HEADER,
            [table.of_rung(rung) for rung in (*sweep.rungs, sweep.again)],
            "The last row repeats the best row's load after all the others.",
        ),
    ]


def warnings(sweep: Sweep) -> list[str]:
    """Return the warnings of all steps, each with the step's name."""
    return [
        f"{step.share:g} × capacity: {warning}"
        for step in sweep.steps
        for warning in step.measured.report.warnings
    ]


def _headlines(sweep: Sweep) -> list[tuple[str, str]]:
    heaviest = sweep.steps[-1]
    figures = [
        ("capacity", f"{sweep.capacity:.1f}/s with {sweep.best.name}"),
        ("capacity at the end", f"{sweep.again.per_s:.1f}/s ({sweep.drift:+.1%})"),
        ("deadline", f"{sweep.deadline_ms:g} ms"),
    ]
    goodput = heaviest.measured.report.goodput
    if goodput is not None:
        share = goodput / sweep.capacity
        figures.append(
            (f"goodput at {heaviest.share:g} × capacity", f"{goodput:.1f}/s ({share:.0%} of it)")
        )
    refusal = heaviest.measured.report.refusal_ms.get("p99")
    if refusal is not None:
        figures.append((f"refusals at {heaviest.share:g} ×, p99", f"{refusal:.1f} ms"))
    return figures


def _curves(sweep: Sweep) -> list[Plot]:
    curves = [
        Plot(
            "Latency against offered load",
            plots.latency(sweep),
            "With fewer than a thousand answers, p99.9 is the slowest one.",
        ),
        Plot("Goodput against offered load", plots.goodput(sweep)),
        Plot("Refusals against offered load", plots.refused(sweep)),
    ]
    if batches := plots.batch_sizes(sweep):
        curves.append(Plot("Batch sizes against offered load", batches))
    if sweep.predictions:
        curves.append(
            Plot("Predicted against measured latency", plots.predictions(sweep.predictions))
        )
    return curves


def _run_plots(run: Run) -> list[Part]:
    answered = [o.latency_s * 1e3 for o in run.outcomes if o.answered]
    if not answered:
        return []
    responses = [o for o in run.outcomes if o.status is not None]
    start = run.outcomes[0].at_s  # sorted by intended time
    shown = [
        Plot(
            "Latency over time",
            plots.over_time(
                [o.at_s - start for o in responses],
                [o.latency_s * 1e3 for o in responses],
                [o.answered for o in responses],
            ),
        ),
        Plot("Distribution of the latency", plots.distribution(answered, run.load.deadline_ms)),
    ]
    if run.predictions:
        shown.append(Plot("Predicted against measured latency", plots.predictions(run.predictions)))
    return [Plots("Latency", shown)]


def _facts(report: Report) -> Table:
    """Convert the terminal's report, whose lines begin with a name in 18 columns, to a table."""
    lines = as_text(report).splitlines()
    return Table("Report", ("fact", "value"), [(line[:18].strip(), line[18:]) for line in lines])


def _goodput(report: Report) -> list[tuple[str, str]]:
    if report.goodput is None:
        return []
    return [(f"goodput within {report.deadline_ms:g} ms", f"{report.goodput:.1f}/s")]


def _warnings(found: Sequence[str]) -> list[Part]:
    return (
        [Table("Do not trust this result", ("warning",), [[text] for text in found])]
        if found
        else []
    )
