"""Grafana's dashboards: written by their script, and in step with the metrics and rules."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.boards import BOARDS, FOLDER, panels, queries
from tests.docker.exposed import published
from tests.docker.test_rules import RULES

boards = pytest.mark.parametrize("board", BOARDS)
EVERY = [(board, *query) for board in BOARDS for query in queries(board)]


def test_the_dashboards_are_what_their_script_writes(tmp_path: Path) -> None:
    script = FOLDER / "dashboards.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, timeout=60)

    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    committed = (FOLDER / "dashboards").glob("*.json")
    assert written == {path.name: path.read_text(encoding="utf-8") for path in committed}


def test_there_is_one_for_the_service_the_model_drift_and_the_gpu() -> None:
    assert BOARDS.keys() == {"service", "model", "drift", "gpu"}
    assert len({board["uid"] for board in BOARDS.values()}) == 4


@boards
def test_panels_fill_their_rows_and_say_how_to_read_them(board: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(board):
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["description"], panel["title"]


@boards
def test_every_variable_that_a_query_names_can_be_chosen(board: str) -> None:
    named = {
        name
        for panel in panels(board)
        for target in panel["targets"]
        for name in re.findall(r"\$(\w+)", target["expr"])
    }

    assert named - {"__rate_interval"} <= {
        variable["name"] for variable in BOARDS[board]["templating"]["list"]
    }


@pytest.mark.parametrize(("board", "title", "query"), EVERY)
def test_every_series_is_published_or_recorded(board: str, title: str, query: str) -> None:
    rules = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES]
    recorded = {
        rule.get("record") for file in rules for group in file["groups"] for rule in group["rules"]
    }

    series = set(re.findall(r"\btidegate:[\w:]+", query))
    metrics = set(re.findall(r"\b(?:tidegate|process)_\w+", query))

    assert series | metrics or "up{" in query
    assert series <= recorded
    assert metrics <= published().keys()


def test_every_metric_is_on_a_panel() -> None:
    shown = {name for _, _, query in EVERY for name in re.findall(r"\btidegate[_:][\w:]+", query)}
    behind = " ".join(path.read_text(encoding="utf-8") for path in RULES)

    ours = {re.sub("_(bucket|count|sum)$", "", n) for n in published() if n.startswith("tidegate_")}

    bare = {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    assert {name for name in ours - bare if name not in behind} == set()


def test_each_window_that_can_be_chosen_is_recorded() -> None:
    (window,) = (v for v in BOARDS["drift"]["templating"]["list"] if v["name"] == "window")
    rules = (FOLDER.parent / "prometheus" / "rules" / "drift.yml").read_text(encoding="utf-8")

    for chosen in window["query"].split(","):
        for _, query in queries("drift"):
            for series in re.findall(r"\btidegate:[\w:]+1h\b", query):
                assert f"record: {series.removesuffix('1h')}{chosen}\n" in rules


def test_grafana_finds_its_prometheus_and_its_dashboards() -> None:
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.yml").read_text("utf-8"))
    (source,) = _provisioned("datasources", "prometheus.yml")["datasources"]
    (provider,) = _provisioned("dashboards", "tidegate.yml")["providers"]
    mounts = [volume.split(":") for volume in compose["services"]["grafana"]["volumes"]]

    assert source["url"] == "http://prometheus:9090"
    assert source["type"] == "prometheus"
    assert ["./docker/grafana/dashboards", provider["options"]["path"], "ro"] in mounts


def _provisioned(*parts: str) -> dict[str, list[dict[str, Any]]]:
    path = FOLDER.joinpath("provisioning", *parts)
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(path.read_text("utf-8"))
    return found
