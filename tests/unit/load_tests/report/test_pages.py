"""The page of a load test is complete, self-contained and escaped; its plots are labelled."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from load_tests.generator.loops import Outcome
from load_tests.generator.run import Load, Run
from load_tests.generator.statistics import Report, Spent, summarise
from load_tests.report import pages, plots
from load_tests.report.html_page import Figures, Part, Plot, Plots, Table, page
from load_tests.scenarios.sweep import Measured, Rung, Step, Sweep
from load_tests.server.batch_sizes import BatchSizes

HOSTILE = """<script>alert("x")</script>'&"><img src=http://127.0.0.1/x>"""
VOID = {"meta", "link", "img", "br", "input"}


class Checked(HTMLParser):
    """Records every element, text and attribute, and whether tags are closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(document)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _outcomes(answered: int, refused: int, latency_s: float) -> list[Outcome]:
    good = [
        Outcome(
            latency_s * (1 + i / answered), latency_s, 0.0, status=200, at_s=100 + i / 50,
            predicted_ms=900 * latency_s, total_ms=1000 * latency_s,
        )
        for i in range(answered)
    ]  # fmt: skip
    bad = [
        Outcome(0.004, 0.004, 0.0, status=503, code="overloaded", at_s=100 + i / 50)
        for i in range(refused)
    ]
    return good + bad


def _report(outcomes: list[Outcome], mean: int = 4) -> Report:
    sizes = BatchSizes(25, 25 * mean, {"1.0": 5, "2.0": 0, "4.0": 20, "8.0": 0, "+Inf": 0})
    return summarise(outcomes, Spent(2.0, 0.1, 4, batches=sizes), deadline_s=0.25)


@pytest.fixture(scope="module")
def swept() -> Sweep:
    def step(share: float, latency_s: float, refused: int) -> Step:
        outcomes = _outcomes(round(200 * min(share, 1)), refused, latency_s)
        pairs = [(900 * latency_s, 1000 * latency_s)] * 50
        load = Load(2.0, rate=100 * share, deadline_ms=250)
        return Step(share, load, Measured(_report(outcomes), pairs))

    def rung(clients: int, answered: int) -> Rung:
        return Rung(clients, Measured(_report(_outcomes(answered, 0, 0.03))))

    steps = [step(0.1, 0.02, 0), step(1.0, 0.08, 4), step(3.0, 0.2, 400)]
    return Sweep([rung(1, 50), rung(4, 200)], steps, rung(4, 194), deadline_ms=250)


@pytest.fixture(scope="module")
def finished() -> Run:
    outcomes = sorted(_outcomes(100, 20, 0.03), key=lambda outcome: outcome.at_s)
    return Run(Load(2.0, rate=60, deadline_ms=250, predictions=True), outcomes, _report(outcomes))


def _texts(svg: str) -> set[str]:
    root = ElementTree.fromstring(svg)  # noqa: S314  # drawn by this process
    return {"".join(node.itertext()).strip() for node in root.iter() if node.tag.endswith("text")}


@pytest.mark.lengthy
def test_the_page_is_well_formed_and_loads_nothing(swept: Sweep, tmp_path: Path) -> None:
    pages.keep_sweep(tmp_path / "deep" / "page.html", "python -m load_tests sweep", swept)

    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    found = Checked(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [v for n, v in found.attributes if n in ("src", "href") and not v.startswith("#")]
    assert not re.findall(r"@import|url\((?!#)", text)
    assert found.tags.count("svg") == 5
    assert found.tags.count("table") == 2


def test_hostile_text_from_any_source_is_escaped() -> None:
    parts: list[Part] = [
        Figures([(HOSTILE, HOSTILE)]),
        Table(HOSTILE, (HOSTILE, "b"), [(HOSTILE, HOSTILE)], note=HOSTILE),
        Plots(HOSTILE, [Plot(HOSTILE, "<svg></svg>", note=HOSTILE)]),
    ]
    record = {"command": HOSTILE, "measured_at": HOSTILE, "machine": {HOSTILE: HOSTILE}}

    found = Checked(page(HOSTILE, record, parts, introduction=HOSTILE))

    assert not {"script", "img"} & set(found.tags)
    assert ("aria-label", HOSTILE) in found.attributes
    assert found.texts.count(HOSTILE) == 15


@pytest.mark.lengthy
def test_a_problem_code_of_the_server_is_escaped(finished: Run, tmp_path: Path) -> None:
    outcomes = [*finished.outcomes, replace(finished.outcomes[-1], status=503, code=HOSTILE)]
    run = Run(finished.load, outcomes, _report(outcomes))

    pages.keep_run(tmp_path / "page.html", "run", run)

    found = Checked((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not {"script", "img"} & set(found.tags)
    assert any(HOSTILE in text for text in found.texts)


def test_without_a_path_no_page_is_written(finished: Run) -> None:
    pages.keep_run(None, "run", finished)


@pytest.mark.lengthy
def test_ids_of_plots_on_one_page_are_distinct(swept: Sweep) -> None:
    both = plots.latency(swept) + plots.goodput(swept)

    ids = re.findall(r'\bid="([^"]+)"', both)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', both)
    assert len(set(ids)) == len(ids)
    assert set(used) <= set(ids)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (
            plots.latency,
            {
                "offered load (requests/s)", "× capacity of 100.0/s",
                "latency of answered requests (ms)",
                "p50", "p90", "p99", "p99.9", "deadline 250 ms",
            },
        ),
        (
            plots.goodput,
            {
                "offered load (requests/s)", "images per second", "answered",
                "goodput: answered within 250 ms", "ideal: the offered load, up to the capacity",
            },
        ),
        (
            plots.refused,
            {
                "offered load (requests/s)", "share of requests (%)", "refused",
                "minimum at this capacity", "no usable response (timeout, disconnect)",
            },
        ),
        (
            plots.batch_sizes,
            {
                "offered load (× capacity)", "batch size (images)", "share of batches (%)",
                "1", "2", "3–4", "4.0", "0.1", "3",
            },
        ),
    ],
)  # fmt: skip
def test_each_curve_has_its_labels_and_units(
    swept: Sweep, draw: Callable[[Sweep], str], labels: set[str]
) -> None:
    assert labels <= _texts(draw(swept))


def test_the_scatter_of_predictions_shows_the_median_error_and_the_band() -> None:
    svg = plots.predictions([(90.0, 100.0), (44.0, 40.0), (12.5, 10.0)])

    assert {
        "Latency model: median absolute error 10.0%, 3 requests",
        "±15 %",
        "measured in the server (ms)",
        "predicted at admission (ms)",
    } <= _texts(svg)


@pytest.mark.lengthy
def test_a_run_is_drawn_over_time_and_as_a_distribution() -> None:
    over_time = plots.over_time([0.0, 0.5, 1.0], [10.0, 20.0, 5.0], [True, True, False])
    distribution = plots.distribution([float(ms) for ms in range(1, 1001)], deadline_ms=250)

    expected = {"intended time (s from the start)", "latency (ms)", "answered", "refused"}
    assert expected <= _texts(over_time)
    assert {
        "latency of answered requests (ms)",
        "cumulative share (%)",
        "p50: 500 ms",
        "p99: 990 ms",
        "p99.9: 999 ms",
        "deadline: 250 ms",
    } <= _texts(distribution)


def test_a_large_run_is_thinned_but_keeps_its_slowest() -> None:
    slowest = {7: 900.0, 60_001: 950.0}
    latencies = [slowest.get(i, 10.0 + i % 7) for i in range(90_000)]

    kept = plots.shown_points(latencies)

    assert set(slowest) <= set(kept)
    assert len(kept) <= plots.MOST_POINTS * 2


def test_batch_sizes_are_not_drawn_if_the_server_exposes_none(swept: Sweep) -> None:
    silent = replace(
        swept.steps[0], measured=Measured(summarise([], Spent(2.0, 0.1, 1), deadline_s=0.25))
    )

    assert plots.batch_sizes(replace(swept, steps=[silent])) == ""


@pytest.mark.lengthy
def test_a_sweep_without_any_answer_in_its_steps_still_has_a_page(
    swept: Sweep, tmp_path: Path
) -> None:
    refused = summarise(_outcomes(0, 9, 0.1), Spent(2.0, 0.1, 1), deadline_s=0.25)
    steps = [Step(2.0, Load(2.0, rate=200), Measured(refused))]

    pages.keep_sweep(tmp_path / "page.html", "sweep", replace(swept, steps=steps))

    assert Checked((tmp_path / "page.html").read_text(encoding="utf-8")).tags.count("svg") == 3
