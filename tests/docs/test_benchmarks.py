"""Every figure of the tables is that of its result in load_tests/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs.tables.measurements import precisions
from tests.docs.pages import read
from tests.server import ROOT

RESULTS = ROOT / "load_tests" / "results"
MADE_BY = (
    "python -m load_tests",
    "python -m tidegate.models.benchmarks.bucket_reads",
    "python -m tidegate.models.benchmarks.decoding",
    "python -m tidegate.models.benchmarks.distillation",
    "python -m tidegate.models.benchmarks.fine_tuning",
    "python -m tidegate.models.benchmarks.linear_probe",
    "python -m tidegate.models.benchmarks.set_drift",
    "tidegate train",
)
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
OLDER = re.findall(
    r"^\| [\w-]+ \| \d+ × \d+ \| \[[\w ]+\]\(\.\./load_tests/results/([^)]+)\) "
    r"\| ([\d.]+) \| ([\d.]+) \| (\w+): ([\d.]+) and ([\d.]+) \|$",
    read(PAGE),
    re.MULTILINE,
)
OBJECTIVES = read(PAGE).split("## Objectives under load")[1].split("\n## ")[0]
SCENARIOS = [
    [cell.strip() for cell in row.strip("|").split("|")]
    for row in re.findall(r"^\|.*\|$", OBJECTIVES, re.MULTILINE)[2:]
]


def result_of(page: Path, link: str) -> dict[str, Any]:
    """Return the result that a page links to by this text, first."""
    quoted = re.search(rf"\[{link}\]\((?:\.\./)?load_tests/results/([^)]+)\)", read(page))
    assert quoted is not None
    found: dict[str, Any] = json.loads((RESULTS / quoted[1]).read_text("utf-8"))
    return found


def medians(result: dict[str, Any], load: str) -> dict[str, dict[str, float]]:
    """Return the medians of every server under a load."""
    return {
        standing["name"]: {
            name: figure["median"]
            for name, figure in standing["figures"].items()
            if isinstance(figure, dict)
        }
        for standing in result["standings"]
        if standing["load"] == load
    }


@pytest.mark.parametrize("page", [README, PAGE], ids=["README", "benchmarks"])
def test_the_table_of_servers_is_that_of_its_result(page: Path) -> None:
    result = result_of(page, "result")
    kept, over = medians(result, "32 clients"), medians(result, "overload")
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \| (\d+) \|$", read(page), re.M)

    assert {name for name, *_ in rows} <= kept.keys() - {"bare loop"}
    assert page == README or len(rows) == len(kept) - 1
    assert [name for name, *_ in rows][:1] == ["tidegate"]
    for name, throughput, cpu, goodput in rows:
        assert float(throughput) == pytest.approx(kept[name]["throughput_ratio"], abs=0.005)
        assert float(cpu) == pytest.approx(kept[name]["cpu_ratio"], abs=0.005)
        assert float(goodput) == pytest.approx(over[name]["goodput"], abs=0.5)
    assert f"{result['standings'][0]['rounds']} interleaved rounds" in read(page)
    assert f"two cores of an {result['machine']['cpu']}" in read(page)
    assert result["machine"]["cores"] == 2


def test_the_readme_shows_the_best_of_the_others() -> None:
    result = result_of(README, "result")
    others = medians(result, "32 clients").items()
    ratios = {name: figures.get("throughput_ratio", 0.0) for name, figures in others}
    ranked = sorted(ratios.keys() - {"bare loop", "tidegate"}, key=lambda name: -ratios[name])

    shown = re.findall(r"^\| (\w+) \| [\d.]+ \| [\d.]+ \| \d+ \|$", read(README), re.M)

    assert shown[1:] == ranked[: len(shown) - 1]


def test_the_other_loads_are_those_of_the_result() -> None:
    result = result_of(PAGE, "result")
    few, many = (medians(result, f"{n} clients")["tidegate"] for n in (8, 64))
    alone = medians(result, "one client")
    sentence = (
        "With 8 clients the ratios of Tidegate are {:.2f} and {:.2f}, "
        "with 64 clients {:.2f} and {:.2f}.\n"
        "The latency of a single client is {:.2f} times the loop's on all cores."
    )

    assert sentence.format(
        *(figures[k] for figures in (few, many) for k in ("throughput_ratio", "cpu_ratio")),
        alone["tidegate"]["p50_ms"] / alone["bare loop, a thread per core"]["p50_ms"],
    ) in read(PAGE)


@pytest.mark.parametrize(("file", "throughput", "cpu", "best", "its", "its_cpu"), OLDER)
def test_older_results_are_those_of_their_files(
    file: str, throughput: str, cpu: str, best: str, its: str, its_cpu: str
) -> None:
    result = json.loads((RESULTS / file).read_text("utf-8"))
    figures = medians(result, "32 clients")
    others = figures.keys() - {"bare loop", "tidegate"}

    assert best == max(others, key=lambda name: figures[name]["throughput_ratio"])
    for name, shown in (("tidegate", (throughput, cpu)), (best, (its, its_cpu))):
        ratios = figures[name]["throughput_ratio"], figures[name]["cpu_ratio"]
        assert tuple(map(float, shown)) == pytest.approx(ratios, abs=0.00501)


def test_pytriton_was_measured_as_quoted() -> None:
    quoted = re.search(r"([\d.]+) and ([\d.]+) in the first of these results", read(PAGE))
    assert quoted is not None
    result = json.loads((RESULTS / OLDER[0][0]).read_text("utf-8"))
    figures = medians(result, "32 clients")["pytriton"]

    assert float(quoted[1]) == pytest.approx(figures["throughput_ratio"], abs=0.00501)
    assert float(quoted[2]) == pytest.approx(figures["cpu_ratio"], abs=0.00501)


def test_every_older_comparison_is_in_the_table() -> None:
    current = re.search(r"\[result\]\(\.\./load_tests/results/([^)]+)\)", read(PAGE))
    assert current is not None

    kept = {path.name for path in RESULTS.glob("*-compare-*.json") if "-bf16-" not in path.name}

    assert {file for file, *_ in OLDER} == kept - {current[1]}


@pytest.mark.parametrize(("scenario", "quantity", "value", "aim", "met"), SCENARIOS)
def test_the_promises_are_those_of_the_result(
    scenario: str, quantity: str, value: str, aim: str, met: str
) -> None:
    quoted = re.search(r"\[result\]\(\.\./load_tests/results/([^)]+)\)", OBJECTIVES)
    assert quoted is not None
    result = json.loads((RESULTS / quoted[1]).read_text("utf-8"))
    [found] = [f for f in result["scenarios"][scenario]["findings"] if f["quantity"] == quantity]
    number, unit = value.split()

    assert float(number) == pytest.approx(found["value"], abs=0.00501)
    assert (unit, aim) == (found["unit"], found["aim"])
    assert {"yes": True, "no": False, "": None}[met] is found["met"]


def test_the_burst_was_repeated_as_quoted() -> None:
    quoted = re.search(r"`burst` was ([\d.]+) × \(\[result\]\(\S+/([\w.-]+)\)\)", read(PAGE))
    assert quoted is not None
    result = json.loads((RESULTS / quoted[2]).read_text("utf-8"))
    findings = {f["quantity"]: f["value"] for f in result["scenarios"]["burst"]["findings"]}

    assert float(quoted[1]) == pytest.approx(findings["disturbed over undisturbed"], abs=0.00501)


def test_results_name_no_folder_of_the_machine_they_were_made_on() -> None:
    for path in RESULTS.glob("*.json"):
        result = json.loads(path.read_text("utf-8"))

        assert result["command"].startswith(MADE_BY)
        assert not re.search(r"/(tmp|home|root|work|Users)/", path.read_text("utf-8")), path.name


def test_the_readme_has_a_row_for_bf16_of_the_newest_result() -> None:
    newest = max(RESULTS.glob("*-compare-bf16-*.json"))
    figures = medians(json.loads(newest.read_text("utf-8")), "32 clients")["tidegate"]
    (row,) = re.findall(
        r"^\| tidegate in bf16, [\w ]+ \| ([\d.]+) \| ([\d.]+) \|", read(README), re.M
    )

    ratios = figures["throughput_ratio"], figures["cpu_ratio"]
    assert tuple(map(float, row)) == pytest.approx(ratios, abs=0.00501)


def test_the_readme_shows_the_ratios_of_bf16_that_were_measured() -> None:
    rows = dict(
        re.findall(r"^\| (\d+) clients \| .*? \| ([\d.]+) \| [^|]+ \| ", precisions(), re.M)
    )

    assert (
        f"serves {rows['64']} times as many images per second as in fp32 with 64 clients, and "
        f"{rows['8']} times with 8"
    ) in read(README)


def test_the_decoding_times_are_those_of_the_result() -> None:
    result = json.loads((RESULTS / "2026-11-30-decoding.json").read_text("utf-8"))
    table = read(PAGE).split("## Decoding a JPEG in part")[1].split("\n## ")[0]

    for found in result["findings"]:
        (row,) = re.findall(rf"^\| {found['size']} \| (.+) \|$", table, re.MULTILINE)
        *times, ratio = (float(cell.removesuffix(" ms")) for cell in row.split(" | "))
        ways = ("whole_avx2", "in_part_avx2", "in_part_vnni")
        assert times == pytest.approx([found[f"{way}_ms"] for way in ways], rel=0.01)
        assert ratio == pytest.approx(found["in_part_vnni_ratio"], abs=0.0005)


def test_the_profile_is_that_of_the_result() -> None:
    result = json.loads((RESULTS / "2026-11-30-fronts-profile-2-cores.json").read_text("utf-8"))
    found = {f["quantity"]: f["value"] for f in result["findings"]}
    section = read(PAGE).split("## The road's own share")[1].split("\n### ")[0]
    rows = {
        name: (float(before), float(now))
        for name, before, now in re.findall(r"^\| (.+) \| (\d+) µs \| (\d+) µs \|$", section, re.M)
    }

    of_loop = {name: f"loop: {name}" for name in rows} | {"all": "of which its event loop"}
    assert len(rows) == 1 + sum(quantity.startswith("loop: ") for quantity in found)
    for name, (before, now) in rows.items():
        quantity = of_loop[name]
        assert (before, now) == pytest.approx(
            (found[f"before, {quantity}"], found[quantity]), abs=0.5
        )
    ratio = found["event loop, now ÷ before, median of rounds"]
    assert f"{ratio:.3f} times as much" in section


def values_of(result: str) -> dict[str, float]:
    """Return the values of a result of front ends, by quantity."""
    found = json.loads((RESULTS / f"2026-12-01-{result}-2-cores.json").read_text("utf-8"))
    return {finding["quantity"]: finding["value"] for finding in found["findings"]}


def test_what_is_left_of_the_road_is_that_of_the_results() -> None:
    section = read(PAGE).split("### What is left of it")[1].split("\n## ")[0]
    quiet, busy = values_of("fronts-profile"), values_of("fronts-profile-again")
    parts = {name: name for name in quiet if name.startswith("loop: ")}
    for part in [*parts, "of which its event loop"]:
        name = "all" if part not in parts else part.removeprefix("loop: ")
        cells = [quiet[part], busy[f"before, {part}"], busy[part]]
        assert f"| {name} | {' | '.join(f'{us:.0f} µs' for us in cells)} |" in section
    loop = busy["event loop, now ÷ before, median of rounds"]
    process = busy["CPU per image, now ÷ before, median of rounds"]
    assert (
        f"took {loop:.3f} times as much as before, and the whole process {process:.3f} times"
        in (section)
    )
    ratio, low, high = (
        values_of("overhead-road")[f"CPU per image, ratio{end}"]
        for end in ("", ": lower end of 95 %", ": upper end of 95 %")
    )
    assert f"took {ratio:.3f} times as much (95 %: {low:.2f} to {high:.2f}" in section


def test_the_figures_of_front_ends_are_those_of_the_results() -> None:
    section = read(PAGE).split("## Front ends")[1].split("\n## ")[0]
    found, shapes = values_of("fronts"), ("one process", "1 front end", "2 front ends")

    for row, quantity in {
        "answers": "answers, median of windows",
        "CPU per image, process of the engine": "CPU per image of the first process",
        "of which its event loop": "of which its event loop",
        "p50 of one client": "p50 of one client",
    }.items():
        cells = re.findall(rf"^\| {row} \| (.+) \| (.+) \| (.+) \|$", section, re.M)[0]
        shown = [float(re.split(r"[ /]", cell)[0]) for cell in cells]
        measured = [found[f"without decoding, {shape}: {quantity}"] for shape in shapes]
        assert shown == pytest.approx(measured, rel=0.005, abs=0.005), row
    gain = found["without decoding: 2 front ends against one process"]
    assert f"answer {gain:.2f} times as much as one process" in section
    loop_us = found["observed flood, 48 in flight: of which its event loop"]
    assert f"| of which its event loop | 21 µs | {loop_us:.0f} µs |" in section
    killed = values_of("fronts-killed")
    median, longest = (killed[quantity] for quantity in list(killed)[:2])
    assert f"after {median:.2f} s (median of five; at the latest {longest:.2f} s)" in section


def test_the_projection_for_16_cores_is_computed_from_the_results() -> None:
    page = read(ROOT / "docs/guides/many-cores.md")
    one = {
        what: sum(
            values_of(result)[f"{what}, 2 front ends: CPU per image of the {part}"]
            for part in ("first process", "front ends")
        )
        for what, result in {"decoding": "fronts-decoding", "without decoding": "fronts"}.items()
    }

    assert f"That gives {round(16e3 / one['decoding'], -2):,.0f} images/s." in page
    assert f"which gives {round(16e3 / one['without decoding'], -2):,.0f} images/s" in page


def test_the_arithmetic_of_two_cores_is_computed_from_the_result() -> None:
    section = read(ROOT / "docs/guides/many-cores.md").split("## Why two cores gain little")[1]
    found = values_of("fronts")
    shapes = [f"without decoding, {shape}: " for shape in ("one process", "2 front ends")]
    parts = ("CPU per image of the first process", "CPU per image of the front ends")
    cost_ms = [sum(found[shape + part] for part in parts) for shape in shapes]
    rates = [found[f"{shape}answers, median of windows"] for shape in shapes]
    used = [rate * cost / 1e3 for rate, cost in zip(rates, cost_ms, strict=True)]
    generator_ms = 1e3 * (2 - used[1]) / rates[1]

    rows = {
        "CPU per image, all processes": [f"{ms:.3f} ms" for ms in cost_ms],
        "answers": [f"{rate:,.0f}/s" for rate in rates],
        "cores that they use": [f"{cores:.2f}" for cores in used],
        "cores that are left for the generator": [f"{2 - cores:.2f}" for cores in used],
    }
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in section
    assert f"are {generator_ms:.2f} ms per request" in section
    aim = 1.6 * rates[0]
    cores = aim * (cost_ms[1] + generator_ms) / 1e3
    assert f"is {aim:,.0f} requests a second. They would need {cores:.2f} cores" in section
    full = 2e3 / cost_ms[1]
    assert f"at {full:,.0f} requests a second, {full / rates[0]:.2f} times as much" in section
    assert f"costs {cost_ms[1] / cost_ms[0] - 1:.0%} more".replace("%", " %") in section
