"""Prometheus's rules: promtool's tests, and that rules, metrics and runbook name one another."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import Metrics, ModelMetrics, ServedModel

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
RULES = DOCKER / "prometheus" / "rules" / "tidegate.yml"
TESTS = sorted((DOCKER / "prometheus" / "tests").glob("*.yml"))
RUNBOOK = (DOCKER / "RUNBOOK.md").read_text(encoding="utf-8")


def _rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in _rules() if "alert" in rule}


@pytest.fixture(scope="module")
def promtool() -> str:
    fetched = ROOT / ".tools" / "prometheus" / "usr" / "bin" / "promtool"
    found = shutil.which("promtool") or (str(fetched) if fetched.exists() else None)
    if found is None:
        pytest.skip("promtool is not installed: `make tools` fetches it")
    return found


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules_and_the_configuration(promtool: str) -> None:
    _run(promtool, "check", "rules", "--lint-fatal", RULES)
    _run(promtool, "check", "config", DOCKER / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_tests_pass(promtool: str, path: Path) -> None:
    _run(promtool, "test", "rules", path)


def test_every_query_in_the_runbook_is_one(promtool: str, tmp_path: Path) -> None:
    queries = re.findall(r"`([^`]*\(.*?tidegate[^`]*)`", RUNBOOK)
    assert len(queries) >= 4
    rules = [{"record": f"runbook:query:{i}", "expr": q} for i, q in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))

    _run(promtool, "check", "rules", path)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_where_it_fires_and_one_where_it_is_silent(alert: str) -> None:
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    alerts, queries = _checks(cases, "alert_rule_test"), _checks(cases, "promql_expr_test")
    fired = [bool(c["exp_alerts"]) for c in alerts if c["alertname"] == alert]
    fired += [bool(c["exp_samples"]) for c in queries if f'alertname="{alert}"' in c["expr"]]

    assert any(fired)
    assert not all(fired)


def _checks(cases: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [check for case in cases for check in case.get(key, [])]


def test_the_runbook_has_one_heading_for_each_alert_and_no_other() -> None:
    assert sorted(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)) == sorted(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_means_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]

    assert rule["annotations"]["runbook"] == f"docker/RUNBOOK.md#{alert.lower()}"
    assert "Look at" in rule["annotations"]["description"] or (
        "Look whether" in rule["annotations"]["description"]
    )
    assert rule["annotations"]["summary"]
    assert rule["for"]
    assert rule["labels"]["severity"] in {"warning", "critical"}


def _published() -> dict[str, set[str]]:
    """Every sample that the service can expose, with the names of its labels."""
    metrics = Metrics("0")
    metrics.request("/classify", 200, 0.1)  # its labels appear with the first request
    info = dict.fromkeys(("digest", "preprocess_digest", "engine", "precision", "device"), "x")
    alphas = {"reject": 0.005, "review": 0.05}
    ModelMetrics(metrics.registry, ServedModel("m", "1", info, [1.0], 1, alphas, 1, [0.0], 1))
    samples = [s for family in metrics.registry.collect() for s in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


@pytest.mark.parametrize("source", [RULES, DOCKER / "RUNBOOK.md"], ids=["rules", "runbook"])
def test_every_metric_that_is_named_is_one_that_the_service_publishes(source: Path) -> None:
    published = _published()
    histograms = {name.removesuffix("_bucket") for name in published if name.endswith("_bucket")}

    named = set(re.findall(r"\btidegate_\w+", source.read_text(encoding="utf-8")))

    assert named
    assert named <= published.keys() | histograms


def test_every_label_that_a_rule_selects_on_is_on_that_metric() -> None:
    published = _published()
    text = RULES.read_text(encoding="utf-8")

    selected = re.findall(r"\b(tidegate_\w+)\{(\w+)", text)

    assert selected
    for metric, label in selected:
        assert label in published[metric]


def test_every_recorded_series_is_used_or_shown() -> None:
    text = RULES.read_text(encoding="utf-8") + RUNBOOK
    recorded = {rule["record"] for rule in _rules() if "record" in rule}

    # Once is its own definition.
    assert {name for name in recorded if len(re.findall(rf"{name}\b", text)) < 2} == set()


def test_every_series_that_a_rule_reads_is_recorded() -> None:
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    read = {name for rule in _rules() for name in re.findall(r"\btidegate:[\w:]+", rule["expr"])}

    assert read <= recorded
