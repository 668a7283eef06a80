"""Alertmanager's routes, and the path from its API to a filed request, with the real program."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.programs import (
    LISTENING,
    PATIENCE_S,
    Process,
    free_port,
    started,
    tool,
    wait_for,
)
from tests.unit.models.retrain.world import GATE, INFO, Series, prometheus
from tidegate.models.retrain.alerts import MAX_ALERTS, WINDOWS, Subject
from tidegate.models.retrain.evidence import (
    GATE_QUERY,
    IMAGES_QUERY,
    INFO_QUERY,
    KNOWN_QUERY,
    QUERIES,
    query_about,
)
from tidegate.models.retrain.folder import MAX_FILED_PER_HOUR

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "docker" / "alertmanager" / "alertmanager.yml"
DRIFT = ["ClassMixDrift", "ClassVanished", "ClassExploded", "ConfidenceShift", "DriftMonitor"]


def _run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_amtool_accepts_the_configuration() -> None:
    _run(tool("amtool"), "check-config", CONFIG)


@pytest.mark.parametrize(
    ("alert", "receivers"),
    [*((f"Tidegate{name}", "retrain,operator") for name in DRIFT)]
    + [(f"Tidegate{name}", "operator") for name in ("OodRateHigh", "Down", "Shedding")],
)
def test_drift_is_sent_to_both_receivers_and_other_alerts_to_the_operator(
    alert: str, receivers: str
) -> None:
    labels = (f"alertname={alert}", "model=m", "version=1")

    printed = _run(tool("amtool"), "config", "routes", "test", f"--config.file={CONFIG}", *labels)

    assert printed.strip() == receivers


def test_every_query_for_evidence_is_valid(tmp_path: Path) -> None:
    subject = Subject('a "quoted" job', "m", "1", "d" * 64)
    queries = (*QUERIES.values(), IMAGES_QUERY, INFO_QUERY, KNOWN_QUERY, GATE_QUERY)
    asked = [query_about(query, subject, window) for query in queries for window in WINDOWS]
    rules = [{"record": f"evidence:{i}", "expr": query} for i, query in enumerate(asked)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "evidence", "rules": rules}]}))

    _run(tool("promtool", folder="prometheus"), "check", "rules", path)


class Stack:
    """A retraining receiver, and an Alertmanager that notifies it."""

    def __init__(
        self,
        folder: Path,
        answers: dict[str, list[Series]],
        start_receiver: Callable[[], Process],
    ) -> None:
        self.prometheus = answers  # of the fake Prometheus
        self._folder, self._start_receiver = folder, start_receiver
        self.receiver = start_receiver()
        self.alertmanager = ""

    def kill_and_restart_receiver(self) -> None:
        self.receiver.kill()
        self.receiver = self._start_receiver()

    def alert(self, name: str, model: str, *, over: bool = False, **more: str) -> None:
        ends = datetime.now(UTC) + (timedelta(0) if over else timedelta(hours=1))
        labels = {"alertname": name, "model": model, "version": "1", **more}
        self._ask("POST", "alerts", [{"labels": labels, "endsAt": ends.isoformat()}])

    @contextmanager
    def silenced(self, model: str) -> Iterator[None]:
        """Let Alertmanager send nothing about a model."""
        now = datetime.now(UTC)
        silence = {
            "matchers": [{"name": "model", "value": model, "isRegex": False}],
            "startsAt": now.isoformat(),
            "endsAt": (now + timedelta(hours=1)).isoformat(),
            "createdBy": "a test",
            "comment": "a test",
        }
        number = self._ask("POST", "silences", silence)["silenceID"]
        yield
        self._ask("DELETE", f"silence/{number}")

    def inhibits(self, name: str, model: str) -> bool:
        """Return whether Alertmanager has noticed that another alert inhibits this one."""
        found = self._ask("GET", "alerts")
        labels = {"alertname": name, "model": model, "version": "1"}
        return any(one["labels"] == labels and one["status"]["inhibitedBy"] for one in found)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.alertmanager}/api/v2/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
            content = answer.read()
        return json.loads(content) if content else None

    def requests(self, model: str) -> list[Any]:
        read = [json.loads(p.read_text("utf-8")) for p in self._folder.glob("*.json")]
        return [request for request in read if request.get("model") == model]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    binary = tool("alertmanager", "prometheus-alertmanager")
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    [route] = [r for r in config["route"]["routes"] if r["receiver"] == "retrain"]
    [hook] = next(r for r in config["receivers"] if r["name"] == "retrain")["webhook_configs"]
    assert hook["url"] == "http://retrain:9000/alerts"
    assert hook["max_alerts"] == MAX_ALERTS
    route |= {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1s"}
    folder = tmp_path / "requests"
    token = tmp_path / "token"
    answers: dict[str, list[Series]] = {"tidegate_model_info": [INFO]}
    with ExitStack() as programs:
        metrics = programs.enter_context(prometheus(answers))
        command = (
            *(sys.executable, "-m", "tidegate.models", "retrain-request"),
            *("--out", folder, "--port", str(free_port()), "--prometheus", metrics),
            *("--token-file", token, "--make-token"),
        )

        def start_receiver() -> Process:
            listening = "listening on http://([0-9.:]+)"
            return programs.enter_context(started(*command, cwd=ROOT, listening=listening))

        stack = Stack(folder, answers, start_receiver)
        hook["url"] = f"{stack.receiver.url}/alerts"
        hook["http_config"]["authorization"]["credentials_file"] = str(token)
        (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
        alertmanager = started(
            binary,
            f"--config.file={tmp_path / 'alertmanager.yml'}",
            f"--storage.path={tmp_path / 'data'}",
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=",
            cwd=binary.parents[2],  # the fetched binary reads its templates relative to this folder
            listening=LISTENING,
        )
        stack.alertmanager = programs.enter_context(alertmanager).url
        yield stack


def test_a_drift_alert_becomes_one_request_however_often_it_is_sent(stack: Stack) -> None:
    stack.alert("TidegateClassMixDrift", "m")

    stack.receiver.wait_for("m 1: already-filed")  # so it was sent a second time
    assert len(stack.requests("m")) == 1


def test_while_the_ood_rate_is_high_no_request_is_filed(stack: Stack) -> None:
    with stack.silenced("m"):  # until Alertmanager, which takes alerts in one by one, knows both
        stack.alert("TidegateOodRateHigh", "m")
        stack.alert("TidegateClassMixDrift", "m")
        wait_for(lambda: stack.inhibits("TidegateClassMixDrift", "m"), "no inhibition")
    stack.alert("TidegateClassMixDrift", "other")
    # Both groups flush every second, so the first was due when the other repeated.
    stack.receiver.wait_for("other 1: already-filed")
    assert stack.requests("m") == []

    stack.alert("TidegateOodRateHigh", "m", over=True)
    stack.receiver.wait_for("m 1: filed")  # so the inhibition had suppressed it


def test_an_alarm_of_the_services_own_monitors_becomes_a_request_too(stack: Stack) -> None:
    digest = "e" * 12
    for monitor in ("embedding", "blur"):
        stack.alert("TidegateDriftMonitor", "m", monitor=monitor, digest=digest)

    stack.receiver.wait_for("m 1: already-filed")
    [request] = stack.requests("m")
    assert request["digests"] == [digest]
    assert {alert["labels"]["monitor"] for alert in request["alerts"]} <= {"embedding", "blur"}


def test_a_killed_receiver_files_no_second_request(stack: Stack) -> None:
    stack.alert("TidegateDriftMonitor", "m", monitor="embedding")
    stack.receiver.wait_for("m 1: filed")

    stack.kill_and_restart_receiver()

    stack.receiver.wait_for("m 1: already-filed")
    assert len(stack.requests("m")) == 1


def test_an_alarm_of_the_services_own_monitors_waits_for_the_ood_rate(stack: Stack) -> None:
    stack.prometheus["ALERTS"] = [GATE]
    stack.alert("TidegateDriftMonitor", "m", monitor="ood-rate")
    stack.receiver.wait_for("m 1: held-back")

    del stack.prometheus["ALERTS"]

    stack.receiver.wait_for("m 1: filed")
    assert len(stack.requests("m")) == 1


def test_a_request_above_the_hourly_limit_is_rejected_and_sent_again(stack: Stack) -> None:
    for number in range(MAX_FILED_PER_HOUR):
        stack.alert("TidegateClassMixDrift", f"m{number}")
    for number in range(MAX_FILED_PER_HOUR):
        stack.receiver.wait_for(f"m{number} 1: filed")

    stack.alert("TidegateClassMixDrift", "late")

    stack.receiver.wait_for("429 too-many-requests", times=2)
    assert stack.requests("late") == []
