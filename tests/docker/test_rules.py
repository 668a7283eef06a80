"""Prometheus's rules: promtool's tests, and consistency of rules, metrics and runbook."""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.docker.exposed import exposed, published
from tidegate.models.retrain.alerts import WINDOWS
from tidegate.service.bundle.manifest import SMOOTHING
from tidegate.service.cpu import usable_cores
from tidegate.service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
RULES = sorted((DOCKER / "prometheus" / "rules").glob("*.yml"))
TEXT = "".join(path.read_text(encoding="utf-8") for path in RULES)
TESTS = sorted((DOCKER / "prometheus" / "tests").glob("*.yml"))
RUNBOOK = (DOCKER / "RUNBOOK.md").read_text(encoding="utf-8")


@functools.cache
def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


ALERT_RULES = [rule for rule in rules() if "alert" in rule]  # an alert can have several
ALERTS = sorted({rule["alert"] for rule in ALERT_RULES})


def _drift_rules() -> ModuleType:
    path = DOCKER / "prometheus" / "drift_rules.py"
    spec = importlib.util.spec_from_file_location("drift_rules", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_drift_rules_equal_the_scripts_output() -> None:
    written = _drift_rules().drift_rules()

    assert written == (DOCKER / "prometheus" / "rules" / "drift.yml").read_text(encoding="utf-8")


def test_two_bundles_with_one_version_are_never_added_up() -> None:
    texts = {path: path.read_text("utf-8") for path in (*RULES, DOCKER / "RUNBOOK.md")}
    grouped = [g for text in texts.values() for g in re.findall(r"(?:by|on) \(([^)]+)\)", text)]

    without = [g for g in grouped if "version" in g and "digest" not in g]

    assert grouped
    assert without == ["job, model, version"]  # TidegateVersionReused counts the digests


def test_each_window_has_the_same_rules() -> None:
    windows = _drift_rules().WINDOWS
    names = [rule["record"] for rule in rules() if "record" in rule]

    for window in windows:
        for name in (name for name in names if name.startswith("tidegate:class_mix:")):
            assert re.sub(r"\d+[mhd]$", window, name) in names
    assert list(windows) == ["10m", "1h", "6h", "1d"]
    assert max(int(interval.removesuffix("m")) for interval in windows.values()) < 5


def test_a_request_for_retraining_can_cover_each_window() -> None:
    assert list(WINDOWS) == list(_drift_rules().WINDOWS)


def test_the_rules_undo_the_smoothing_of_the_bundles_reference() -> None:
    assert SMOOTHING == 0.1

    assert "+ 0.1 * count by" in TEXT
    assert "- 0.1\n" in TEXT


@pytest.fixture(scope="module")
def promtool() -> str:
    fetched = ROOT / ".tools" / "prometheus" / "usr" / "bin" / "promtool"
    found = shutil.which("promtool") or (str(fetched) if fetched.exists() else None)
    if found is None:
        pytest.skip("promtool is not installed: `make tools` fetches it")
    return found


def _run(*command: str | Path) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, "GOGC": "off", "GOMEMLIMIT": "1GiB"},  # three tenths less CPU time
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules_and_the_configuration(promtool: str) -> None:
    _run(promtool, "check", "rules", "--lint-fatal", *RULES)
    _run(promtool, "check", "config", DOCKER / "prometheus" / "prometheus.yml")


def _reduced(path: Path, folder: Path) -> list[Path]:
    """Write each case as a test with only the rules that its checks depend on; return the paths.

    The answers are the same, and take a fraction of the time.
    """
    test = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = [yaml.safe_load((path.parent / name).read_text("utf-8")) for name in test["rule_files"]]
    groups = [group for file in files for group in file["groups"]]
    written = []
    for number, case in enumerate(test["tests"]):
        needed = _needed(case, [rule for group in groups for rule in group["rules"]])
        kept = [
            {**group, "rules": [rule for rule in group["rules"] if _name(rule) in needed]}
            for group in groups
        ]
        rules, reduced = (folder / f"{path.stem}_{number}{end}" for end in (".rules.yml", ".yml"))
        rules.write_text(yaml.safe_dump({"groups": [group for group in kept if group["rules"]]}))
        reduced.write_text(yaml.safe_dump({**test, "tests": [case], "rule_files": [rules.name]}))
        written.append(reduced)
    return written


def _needed(case: dict[str, Any], rules: list[dict[str, Any]]) -> set[str]:
    """Return the names of the rules on which the checks of a case depend."""
    checks = _checks([case], "alert_rule_test") + _checks([case], "promql_expr_test")
    needed, found = set[str](), {name for check in checks for name in _asked(check, rules)}
    while found:
        needed |= found
        found = {n for rule in rules if _name(rule) in needed for n in _names(rule["expr"])}
        found -= needed
    return needed


def _name(rule: dict[str, Any]) -> str:
    return str(rule.get("record") or rule["alert"])


def _names(expression: str) -> set[str]:
    return set(re.findall(r"[\w:]+", expression))


def _asked(check: dict[str, Any], rules: list[dict[str, Any]]) -> set[str]:
    query = str(check.get("expr") or check["alertname"])
    patterns = re.findall(r'alertname=~"([^"]*)"', query)
    assert "ALERTS" not in query or patterns or "alertname=" in query, f"which alerts? {query}"
    matched = {
        _name(rule) for rule in rules for p in patterns if re.fullmatch(p, rule.get("alert", ""))
    }
    assert bool(patterns) == bool(matched), f"no such alert: {query}"
    return matched | _names(query)


@pytest.fixture(scope="module")
def begun(
    promtool: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Path, Future[None]]]:
    """Start all promtool tests in parallel: each uses one core."""
    folder = tmp_path_factory.mktemp("rules")
    reduced = {path: _reduced(path, folder) for path in TESTS}
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield {
            path: pool.submit(_run, promtool, "test", "rules", *cases)
            for path, cases in reduced.items()
        }


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_promtool_tests_pass(begun: dict[Path, Future[None]], path: Path) -> None:
    begun[path].result()


def test_every_query_in_the_runbook_is_valid(promtool: str, tmp_path: Path) -> None:
    spans = [span for line in RUNBOOK.splitlines() for span in line.split("`")[1::2]]
    queries = [s for s in spans if re.search(r"\btidegate[_:]|\bprocess_", s) and "…" not in s]
    assert len(queries) >= 12
    rules = [{"record": f"runbook:query:{i}", "expr": q} for i, q in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))

    _run(promtool, "check", "rules", path)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent(alert: str) -> None:
    alerts, queries = _checks(_cases(), "alert_rule_test"), _checks(_cases(), "promql_expr_test")
    fired = [bool(c["exp_alerts"]) for c in alerts if c["alertname"] == alert]
    fired += [bool(c["exp_samples"]) for c in queries if f'alertname="{alert}"' in c["expr"]]

    assert any(fired)
    assert not all(fired)


@functools.cache
def _cases() -> list[dict[str, Any]]:
    return [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]


def _checks(cases: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [check for case in cases for check in case.get(key, [])]


def test_the_runbook_has_one_section_for_each_alert_and_no_other() -> None:
    assert sorted(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)) == ALERTS


@pytest.mark.parametrize("alert", ALERTS)
def test_every_section_has_the_meaning_the_checks_the_remedy_and_the_tests(alert: str) -> None:
    section = RUNBOOK.split(f"## {alert}\n")[1].split("\n## ")[0]

    for part in ("**Means:**", "**Look:**", "**Do:**", "**Tested:**"):
        assert part in section


@pytest.mark.parametrize("rule", ALERT_RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_summary_a_check_and_a_link_to_the_runbook(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["runbook"] == f"docker/RUNBOOK.md#{rule['alert'].lower()}"
    assert "Check" in rule["annotations"]["description"]
    assert rule["annotations"]["summary"]
    assert rule["for"]
    assert rule["labels"]["severity"] in {"warning", "critical"}


def test_a_thousand_classes_give_at_most_five_thousand_series_per_replica() -> None:
    default = Settings.model_fields["max_class_series"].default

    assert 1000 < len(exposed(1000, default)) <= 5000


def test_the_rules_always_record_thirteen_series_per_class_and_model() -> None:
    """For all replicas together; class_shift has a series only for classes that moved."""
    per_class = [
        r["record"] for r in rules() if re.search(r"tidegate:class_\w+:\w+", r.get("record", ""))
    ]

    always = [name for name in per_class if not re.search("class_mix|class_shift", name)]

    assert len(always) == 13


@pytest.mark.parametrize("text", [TEXT, RUNBOOK], ids=["rules", "runbook"])
def test_every_named_metric_is_exposed_by_the_service(text: str) -> None:
    names = published().keys()
    histograms = {name.removesuffix("_bucket") for name in names if name.endswith("_bucket")}

    named = set(re.findall(r"\b(?:tidegate|process)_\w+", text))

    assert named
    assert named <= names | histograms


def test_every_metric_is_used_by_a_rule_or_the_runbook() -> None:
    """The GPU metrics are excluded, because they have a dashboard and no alert."""
    bases = {re.sub("_(bucket|count|sum)$", "", name) for name in published()}
    ours = {n for n in bases if n.startswith("tidegate_") and "_gpu_" not in n}

    unused = {name for name in ours if name not in TEXT + RUNBOOK}

    assert unused <= {"tidegate_build_info"}


def test_every_label_that_a_rule_selects_on_is_on_that_metric() -> None:
    labels = published()

    selected = re.findall(r"\b(tidegate_\w+)\{(\w+)", TEXT)

    assert selected
    for metric, label in selected:
        assert label in labels[metric]


# RUNBOOK.md's table names the recorded series without their window.
def test_every_recorded_series_is_used_or_shown() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for rule in rules() for name in re.findall(r"\btidegate:[\w:]+", rule["expr"])}
    shown = {re.sub(r"(\d+[mhd]|…)$", "", n) for n in re.findall(r"\btidegate:[\w:]+…?", RUNBOOK)}

    assert {n for n in recorded - used if re.sub(r"\d+[mhd]$", "", n) not in shown} == set()
    assert {n for n in shown if not any(name.startswith(n) for name in recorded)} == set()


def test_every_series_that_a_rule_reads_is_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    read = {name for rule in rules() for name in re.findall(r"\btidegate:[\w:]+", rule["expr"])}

    assert read <= recorded
