from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.server import PATIENCE_S, PHOTOS, Server, running
from tidegate.service.bundle.store import open_bundle

CONTRACT_METRICS = {
    "tidegate_requests": "counter",
    "tidegate_request_duration_seconds": "histogram",
    "tidegate_stage_duration_seconds": "histogram",
    "tidegate_batch_size": "histogram",
    "tidegate_batch_duration_seconds": "histogram",  # not in the design: parts of a batch on a GPU
    "tidegate_queue_depth": "gauge",
    "tidegate_inflight_requests": "gauge",
    "tidegate_shed": "counter",
    "tidegate_slot_busy_seconds": "counter",
    "tidegate_predictions": "counter",
    "tidegate_prediction_confidence": "histogram",
    "tidegate_ood_decisions": "counter",
    "tidegate_ood_p_value": "histogram",
    "tidegate_ood_score": "histogram",
    "tidegate_reference_class_fraction": "gauge",
    "tidegate_reference_samples": "gauge",
    "tidegate_reference_confidence_ratio": "gauge",  # not in the design: for the confidence alert
    "tidegate_ood_alpha": "gauge",
    "tidegate_ood_calibration_samples": "gauge",  # not in the design: for the OOD alert's z
    # Not in the design: the service's drift monitors.
    "tidegate_drift_alarm": "gauge",
    "tidegate_review_images": "counter",
    "tidegate_feedback": "counter",
    "tidegate_feedback_probability": "counter",
    "tidegate_log_lines_dropped": "counter",
    "tidegate_log_lines_left_out": "counter",
    "tidegate_traces": "counter",
    "tidegate_drift_evidence_ratio": "gauge",
    "tidegate_drift_design_effect_ratio": "gauge",
    "tidegate_drift_learned_days": "gauge",
    "tidegate_drift_near_duplicates": "counter",
    "tidegate_drift_z": "gauge",
    "tidegate_drift_embedding_distance": "gauge",
    "tidegate_drift_psi_excess": "gauge",
    "tidegate_drift_label_shift_fraction": "gauge",
    "tidegate_drift_label_shift_residual_z": "gauge",
    "tidegate_expected_accuracy_ratio": "gauge",
    "tidegate_model_info": "gauge",
    "tidegate_build_info": "gauge",
    # Not in the design: several versions.
    "tidegate_model_alias": "gauge",
    "tidegate_reload": "counter",
    "tidegate_shadow_images": "counter",
    "tidegate_rollout_steps": "counter",
    # Not in the design: API keys and files that are followed.
    "tidegate_client_requests": "counter",
    "tidegate_configuration_refused": "gauge",
    "tidegate_audit_lines_dropped": "counter",
    # Not in the design: processes that answer HTTP.
    "tidegate_front_ends": "gauge",
    "tidegate_front_ends_replaced": "counter",
}


def values(text: str, name: str) -> dict[str, float]:
    """Return the samples of one metric, by their label text."""
    pattern = re.compile(rf"^{re.escape(name)}(?:\{{(.*)\}})? (\S+)$", re.MULTILINE)
    return {labels: float(value) for labels, value in pattern.findall(text)}


@pytest.fixture
def scrape(client: httpx.Client) -> str:
    return client.get("/metrics").text


def test_every_metric_of_the_contract_is_exported_with_its_type(scrape: str) -> None:
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", scrape, re.MULTILINE))
    ours = {
        name.removesuffix("_total") if kind == "counter" else name: kind
        for name, kind in types.items()
        if name.startswith("tidegate_")
    }

    assert ours == CONTRACT_METRICS


def test_a_scraper_gets_openmetrics_and_gzip_if_it_accepts_them(client: httpx.Client) -> None:
    accepting = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "gzip"}
    compressed = client.get("/metrics", headers=accepting)
    plain = client.get("/metrics", headers={"Accept-Encoding": "identity"})

    parsed = text_string_to_metric_families(compressed.text)  # type: ignore[no-untyped-call]
    families = {family.name for family in parsed}
    assert {name.removesuffix("_total") for name in CONTRACT_METRICS} <= families
    assert compressed.headers["Content-Type"].startswith("application/openmetrics-text")
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert compressed.headers["Vary"] == "Accept, Accept-Encoding"
    assert int(compressed.headers["Content-Length"]) < int(plain.headers["Content-Length"]) / 5
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_every_class_has_a_series_from_the_start(scrape: str) -> None:
    assert len(values(scrape, "tidegate_predictions_total")) == 1000
    fractions = values(scrape, "tidegate_reference_class_fraction")
    assert sum(fractions.values()) == pytest.approx(1)
    assert min(fractions.values()) > 0


def test_series_stay_below_five_thousand_with_a_thousand_classes(scrape: str) -> None:
    series = [line for line in scrape.splitlines() if line and not line.startswith("#")]

    assert len(series) < 5000


def test_an_answer_is_counted_once_everywhere(client: httpx.Client) -> None:
    coffee = (PHOTOS / "coffee.png").read_bytes()
    before = client.get("/metrics").text
    body = client.post("/classify", content=coffee).json()
    after = client.get("/metrics").text

    def grew(name: str) -> dict[str, float]:
        was = values(before, name)
        return {
            labels: value - was.get(labels, 0)
            for labels, value in values(after, name).items()
            if value != was.get(labels, 0)
        }

    class_id = body["predictions"][0]["class_id"]
    assert list(grew("tidegate_predictions_total").values()) == [1]
    assert f'class="{class_id}"' in next(iter(grew("tidegate_predictions_total")))
    assert grew("tidegate_requests_total")['route="/classify",status="200"'] == 1
    assert list(grew("tidegate_ood_decisions_total").values()) == [1]
    assert list(grew("tidegate_ood_p_value_count").values()) == [1]
    scores = client.get("/models/efficientnet-lite0").json()["gate"]["scores"]
    assert list(grew("tidegate_ood_score_count").values()) == [1] * len(scores)
    assert list(grew("tidegate_prediction_confidence_count").values()) == [1]
    assert list(grew("tidegate_batch_size_count").values()) == [1]
    assert set(grew("tidegate_stage_duration_seconds_count").values()) == {1}
    assert len(grew("tidegate_stage_duration_seconds_count")) == 5
    assert next(iter(grew("tidegate_slot_busy_seconds_total").values())) > 0


def test_series_of_the_model_have_the_first_digits_of_its_digest(
    scrape: str, demo_bundle: Path
) -> None:
    """The digest is a label of thousands of lines."""
    digest = open_bundle(demo_bundle).digest

    [info] = values(scrape, "tidegate_model_info")
    assert f'digest="{digest[:12]}"' in info
    assert digest not in scrape


def test_models_describes_the_model_and_its_engine(client: httpx.Client, demo_bundle: Path) -> None:
    bundle = open_bundle(demo_bundle)
    listed = client.get("/models").json()["models"]
    model = client.get("/models/efficientnet-lite0").json()

    assert listed == [
        {
            "name": "efficientnet-lite0",
            "version": "1",
            "digest": bundle.digest,
            "aliases": ["stable"],
            "is_default": True,
        }
    ]
    assert model["preprocess_digest"] == bundle.manifest.preprocess.digest
    assert model["preprocess"]["steps"][0]["op"] == "centre-crop-fraction"
    assert model["calibration"] == bundle.manifest.calibration.model_dump()
    assert model["gate"]["alpha_reject"] == bundle.gate.alpha_reject
    assert model["engine"]["name"] == "onnx-cpu"
    assert model["engine"]["slots"] >= 1
    assert len(model["labels"]) == 1000


def test_drift_lists_every_monitor_and_counts_answered_images(
    client: httpx.Client, chelsea: bytes
) -> None:
    before = client.get("/drift").json()

    assert client.post("/classify", content=chelsea).status_code == 200
    after = client.get("/drift").json()

    assert after["images"] == before["images"] + 1
    assert after["detectors"].keys() == {"ood-rate", "class-mix"}
    assert after["shares"].keys() == {"rejected-share", "class-share"}
    assert after["findings"] == []
    assert "The monitors have learned from 0 of 7 days." in " ".join(after["outlook"])
    assert "p-value" in after["histograms"]
    assert after["label_shift"] is None  # no confusion matrix for a thousand classes
    assert 0 < after["expected_accuracy"] < 1


def test_the_same_image_is_counted_once_a_minute(client: httpx.Client, chelsea: bytes) -> None:
    before = client.get("/drift").json()

    for _ in range(3):
        assert client.post("/classify", content=chelsea).status_code == 200
    after = client.get("/drift").json()

    assert after["images"] == before["images"] + 3
    assert after["learned"]["near_duplicates"] >= before["learned"]["near_duplicates"] + 2


def test_the_monitors_have_series_from_the_start(scrape: str) -> None:
    alarms = values(scrape, "tidegate_drift_alarm")

    assert {re.search(r'monitor="([^"]+)"', labels)[1] for labels in alarms} >= {  # type: ignore[index]
        "ood-rate",
        "class-mix",
        "p-value",
    }


def test_the_drift_state_survives_a_restart(
    small_bundle: Path, tmp_path: Path, chelsea: bytes
) -> None:
    for images in (2, 4):
        with (
            running(small_bundle, drift_state=tmp_path / "drift") as server,
            httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
        ):
            for _ in range(2):
                assert client.post("/classify", content=chelsea).status_code == 200
            assert client.get("/drift").json()["images"] == images

    assert [path.name for path in tmp_path.iterdir()] == ["drift"]


@pytest.fixture(scope="module")
def openapi(client: httpx.Client) -> dict[str, Any]:
    document: dict[str, Any] = client.get("/openapi.json").json()
    return document


def test_openapi_has_every_route_of_the_contract(openapi: dict[str, Any]) -> None:
    own = {path for path in openapi["paths"] if not path.startswith("/v2")}  # tests/api/test_v2.py

    assert own == {
        "/",
        "/classify",
        "/classify/batch",
        "/livez",
        "/readyz",
        "/metrics",
        "/models",
        "/models/{name}",
        "/drift",
        "/feedback",
        "/preprocess",
        "/explain",
        "/models/{name}/preprocess",
        "/models/{name}/explain",
        "/models/{name}/versions/{version}/preprocess",
        "/models/{name}/versions/{version}/explain",
        "/models/{name}/calibration",
        "/models/{name}/versions/{version}/calibration",
        "/models/{name}/classify",
        "/models/{name}/classify/batch",
        "/models/{name}/rollout",
        "/models/{name}/versions/{version}",
        "/models/{name}/versions/{version}/classify",
        "/models/{name}/versions/{version}/classify/batch",
        "/models/{name}/versions/{version}/drift",
        "/admin/reload",
        "/admin/models/{name}/promote",
        "/admin/models/{name}/rollback",
    }


def test_openapi_documents_a_bad_parameter_wherever_there_is_one(openapi: dict[str, Any]) -> None:
    operations = [one for methods in openapi["paths"].values() for one in methods.values()]
    with_query = [
        one for one in operations if any(p["in"] == "query" for p in one.get("parameters", ()))
    ]

    assert len(with_query) > 5
    assert all("400" in one["responses"] for one in with_query)


def test_openapi_documents_every_problem_of_classify(openapi: dict[str, Any]) -> None:
    responses = openapi["paths"]["/classify"]["post"]["responses"]

    assert responses.keys() == {
        "200",
        "400",
        "404",
        "408",
        "413",
        "415",
        "422",
        "429",
        "500",
        "503",
        "504",
    }
    for status in responses.keys() - {"200"}:
        assert "application/problem+json" in responses[status]["content"]


def test_openapi_examples_and_real_answers_fit_their_schemas(
    openapi: dict[str, Any], client: httpx.Client, chelsea: bytes
) -> None:
    responses = openapi["paths"]["/classify"]["post"]["responses"]
    ok = responses["200"]["content"]["application/json"]
    bad = responses["422"]["content"]["application/problem+json"]
    components = {"components": openapi["components"]}

    for document, schema in (
        (ok["example"], ok["schema"]),
        (client.post("/classify", content=chelsea).json(), ok["schema"]),
        (bad["example"], bad["schema"]),
        (client.post("/classify", content=b"x").json(), bad["schema"]),
    ):
        jsonschema.validate(document, {**schema, **components})


def test_the_log_line_of_an_image_says_who_sent_it_and_where_its_time_went(
    server: Server, client: httpx.Client
) -> None:
    coffee = (PHOTOS / "coffee.png").read_bytes()
    headers = {"X-Request-Id": "log-1", "User-Agent": "a camera/1.0"}
    body = client.post("/classify", content=coffee, headers=headers).json()
    late = {"X-Request-Id": "log-2", "X-Request-Timeout-Ms": "1"}
    client.post("/classify", content=coffee, headers=late)

    line = server.wait_for("request", request_id="log-1")
    assert (line["client"], line["user_agent"]) == ("127.0.0.1", "a camera/1.0")
    assert line["bytes_in"] == len(coffee)
    assert (line["model"], line["version"]) == ("efficientnet-lite0", "1")
    assert line["batch_size"] == body["batch_size"]
    assert line["queue_ms"] == body["timing_ms"]["queue"]
    assert line["engine_ms"] == body["timing_ms"]["engine"]
    refused = server.wait_for("request", request_id="log-2")
    assert (refused["code"], refused["shed"]) == ("deadline-missed", "infeasible-deadline")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_sigusr1_writes_the_stacks_of_all_threads_and_the_server_goes_on(
    server: Server, client: httpx.Client
) -> None:
    server.process.send_signal(signal.SIGUSR1)

    server.wait_for("Thread 0x")
    server.wait_for("Current thread 0x")
    assert client.get("/readyz").status_code == 200
