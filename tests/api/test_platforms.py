"""The protocols of platforms, each in its own form: SageMaker, Vertex, KServe v1, and others.

Answers are compared with those of /classify.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.processes import output
from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, running
from tidegate.service.api.dialects.names import NAMES

ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
JSON = {"Content-Type": "application/json"}
ADMIN = "the-administrator"
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


def photo(name: str) -> bytes:
    return (PHOTOS / name).read_bytes()


ACCEPTED, REJECTED, BROKEN = photo("coffee.png"), photo("grass.png"), photo("coffee.png")[:900]


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.fixture(scope="module")
def platform_server(demo_bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    token = tmp_path_factory.mktemp("admin") / "token"
    token.write_text(ADMIN)
    with running(
        demo_bundle,
        dialects=",".join(NAMES),
        max_files=4,
        max_upload_bytes=4 << 20,
        admin_token_file=token,
    ) as started:
        yield started


@pytest.fixture(scope="module")
def api(platform_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=platform_server.url, timeout=PATIENCE_S) as opened:
        yield opened


@pytest.fixture(scope="module")
def classified(api: httpx.Client) -> Any:
    return api.post("/classify", content=ACCEPTED).json()


@dataclass(frozen=True)
class Route:
    """A route that takes instances."""

    path: str
    error: str  # the member that says what failed


ROUTES = [
    Route("/v1/models/efficientnet-lite0:predict", "error"),
    Route("/v1/models/efficientnet-lite0/versions/1:predict", "error"),
    Route("/v1/models/efficientnet-lite0/labels/stable:predict", "error"),
    Route("/predict", "error"),  # Vertex
    Route("/invocations", "detail"),
]
EVERY_ROUTE = pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)


@EVERY_ROUTE
def test_instances_are_answered_in_order(api: httpx.Client, classified: Any, route: Route) -> None:
    instances = [
        {"b64": b64(ACCEPTED)},
        {"image": {"b64": b64(REJECTED)}, "key": 7},
        {"image_bytes": {"b64": b64(BROKEN)}},
        {"image": "?"},
    ]

    answer = api.post(route.path, json={"instances": instances, "parameters": {"top_k": 5}})

    assert answer.status_code == 200
    fine, rejected, broken, no_text = answer.json()["predictions"]
    assert fine["predictions"] == classified["predictions"]
    assert (fine["decision"], fine["p_value"]) == ("accept", classified["ood"]["p_value"])
    assert (rejected["decision"], rejected["predictions"]) == ("reject", [])
    assert broken["error"]["code"] == "undecodable-image"
    assert no_text["error"]["code"] == "bad-request"
    assert "Instance 3" in no_text["error"]["detail"]


@EVERY_ROUTE
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"instances": []}', "1 to 4 instances, not 0"),
        (b'{"instances": [{}, {}, {}, {}, {}]}', "1 to 4 instances, not 5"),
        (b'{"instances": [' + b"{}," * 200 + b"{}]}", "too many objects"),
        (b'{"instances": 3}', "instances"),
        (b'{"images": []}', "instances"),
        (b'{"instances": [{"b64": 3}]}', "b64"),
        (b'{"instances": [{"b64": ""}], "parameters": {"top_k": 0}}', "top_k"),
        (b'{"instances": [{"b64": ""}], "parameters": {"timeout_ms": 0}}', "timeout_ms"),
        (b'{"instances": [', "JSON"),
    ],
)
def test_a_malformed_body_is_rejected_in_the_form_of_the_protocol(
    api: httpx.Client, route: Route, body: bytes, why: str
) -> None:
    answer = api.post(route.path, content=body, headers=JSON)

    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/json"
    assert why in answer.json()[route.error]


@pytest.mark.parametrize("path", ["/invocations", "/predict"])
def test_a_raw_image_is_answered_as_by_classify(
    api: httpx.Client, classified: Any, path: str
) -> None:
    answer = api.post(path, content=ACCEPTED, headers={"Content-Type": "application/x-image"})

    assert answer.status_code == 200
    for member in ("decision", "predictions", "ood", "model"):
        assert answer.json()[member] == classified[member]


@pytest.mark.parametrize("path", ["/invocations", "/predict", "/"])
def test_a_rejected_raw_image_is_a_refusal(api: httpx.Client, path: str) -> None:
    answer = api.post(path, content=REJECTED)

    assert answer.status_code == 422
    assert answer.json()["code"] == "out-of-distribution"
    assert "predictions" not in answer.json()


@pytest.mark.parametrize("path", ["/invocations", "/", "/predictions/efficientnet-lite0"])
@pytest.mark.parametrize(
    ("image", "status"), [(BROKEN, 422), (b"text", 415), (b"", 400), (bytes(5 << 20), 413)]
)
def test_a_bad_image_has_its_status(
    api: httpx.Client, path: str, image: bytes, status: int
) -> None:
    answer = api.post(path, content=image)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"


def bomb() -> bytes:
    """Return a small PNG of 36 million pixels."""
    made = io.BytesIO()
    Image.new("1", (6000, 6000)).save(made, "PNG")
    return made.getvalue()


@pytest.mark.parametrize(
    "path", ["/invocations", "/predict", "/", "/predictions/efficientnet-lite0"]
)
def test_a_bomb_is_too_large(api: httpx.Client, path: str) -> None:
    inflated = {"Content-Encoding": "gzip"}

    pixels = api.post(path, content=bomb())
    packed = api.post(path, content=gzip.compress(bytes(5 << 20)), headers=inflated)

    assert (pixels.status_code, packed.status_code) == (413, 413)
    assert "pixels" in pixels.text
    assert "bytes" in packed.text


@EVERY_ROUTE
def test_a_bomb_among_instances_is_an_element(api: httpx.Client, route: Route) -> None:
    instances = [{"b64": b64(bomb())}, {"b64": b64(ACCEPTED)}]

    answer = api.post(route.path, json={"instances": instances})

    bad, fine = answer.json()["predictions"]
    assert (bad["error"]["code"], fine["decision"]) == ("image-too-large", "accept")


@pytest.mark.parametrize(
    "path",
    ["/v1/models/none:predict", "/v1/models/efficientnet-lite0/versions/9:predict"],
)
def test_an_unknown_model_is_not_found(api: httpx.Client, path: str) -> None:
    answer = api.post(path, json={"instances": [{"b64": ""}]})

    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert answer.json()["error"].startswith("not-found: ")


@pytest.mark.parametrize("path", ["/v1/models/efficientnet-lite0:predict", "/invocations"])
def test_instances_that_are_all_too_late_fail_the_call(api: httpx.Client, path: str) -> None:
    body = {"instances": [{"b64": b64(ACCEPTED)}] * 2, "parameters": {"timeout_ms": 1}}

    answer = api.post(path, json=body)

    assert answer.status_code in (503, 504)


def test_kserve_v1_tells_that_a_model_is_ready(api: httpx.Client) -> None:
    status = api.get("/v1/models/efficientnet-lite0").json()

    assert (status["name"], status["ready"]) == ("efficientnet-lite0", "True")
    assert [v["state"] for v in status["model_version_status"]] == ["AVAILABLE"]
    assert api.get("/v1/models").json() == {"models": ["efficientnet-lite0"]}
    assert api.get("/v1/models/none").status_code == 404


def test_sagemaker_s_ping_has_no_body(api: httpx.Client) -> None:
    ping = api.get("/ping")

    assert (ping.status_code, ping.content) == (200, b"")


def test_sagemaker_s_attributes_carry_parameters_and_the_decision(api: httpx.Client) -> None:
    headers = {
        ATTRIBUTES: "trace=x;top_k=2; ood_action=flag",
        "X-Amzn-SageMaker-Inference-Id": "mine-1",
    }

    accepted = api.post("/invocations", content=ACCEPTED, headers=headers)
    rejected = api.post("/invocations", content=REJECTED, headers=headers)

    assert len(accepted.json()["predictions"]) == 2
    assert accepted.headers[ATTRIBUTES] == "request_id=mine-1;decision=accept"
    assert (rejected.status_code, rejected.json()["decision"]) == (200, "reject")
    assert rejected.json()["predictions"] == []
    assert rejected.headers[ATTRIBUTES].endswith("decision=reject")


@pytest.mark.parametrize(
    "given", ["top_k=x", "top_k=0", "top_k=99999", "timeout_ms=", "ood_action=no"]
)
def test_a_wrong_attribute_is_named(api: httpx.Client, given: str) -> None:
    answer = api.post("/invocations", content=ACCEPTED, headers={ATTRIBUTES: given})

    assert answer.status_code == 400
    assert (
        given.partition("=")[0] in answer.json()["detail"] or "Timeout" in answer.json()["detail"]
    )


def test_sagemaker_answers_lines_of_json_in_lines(api: httpx.Client, classified: Any) -> None:
    lines = [json.dumps({"b64": b64(ACCEPTED)}), "", json.dumps({"image": b64(REJECTED)})]
    headers = {"Content-Type": "application/jsonlines"}

    answer = api.post("/invocations", content="\r\n".join(lines), headers=headers)

    assert answer.headers["content-type"] == "application/jsonlines"
    first, second = [json.loads(line) for line in answer.text.splitlines()]
    assert first["predictions"] == classified["predictions"]
    assert second["decision"] == "reject"
    assert answer.headers[ATTRIBUTES].endswith("decision=accept,reject")


def test_sagemaker_s_execution_parameters_follow_the_settings(api: httpx.Client) -> None:
    assert api.get("/execution-parameters").json() == {
        "MaxConcurrentTransforms": 4,  # two slots
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": 4,
    }


@pytest.mark.parametrize("path", ["/health"])
def test_health_is_ready(api: httpx.Client, path: str) -> None:
    assert api.get(path).status_code == 200


@pytest.mark.parametrize("as_json", [False, True])
def test_hugging_face_s_task_has_labels_and_scores(
    api: httpx.Client, classified: Any, as_json: bool
) -> None:
    parameters = {"top_k": 3, "function_to_apply": "softmax"}
    body = {"inputs": b64(ACCEPTED), "parameters": parameters}

    answer = api.post("/", json=body) if as_json else api.post("/", content=ACCEPTED)

    expected = [{"label": p["label"], "score": p["probability"]} for p in classified["predictions"]]
    assert answer.json() == (expected[:3] if as_json else expected)


@pytest.mark.parametrize("name", ["sigmoid", "none"])
def test_hugging_face_s_other_functions_are_refused_with_the_reason(
    api: httpx.Client, name: str
) -> None:
    body = {"inputs": b64(ACCEPTED), "parameters": {"function_to_apply": name}}

    answer = api.post("/", json=body)

    assert answer.status_code == 400
    assert f"function_to_apply={name}" in answer.json()["error"]


def test_torchserve_s_labels_stay_apart_if_classes_share_them(api: httpx.Client) -> None:
    rocket = photo("rocket.jpg")
    expected = api.post("/classify", content=rocket).json()["predictions"]

    raw = api.post("/predictions/efficientnet-lite0", content=rocket)
    form = api.post("/predictions/efficientnet-lite0/1", files={"data": rocket})

    put = api.put("/predictions/efficientnet-lite0", content=rocket)  # curl -T

    assert raw.json() == form.json() == put.json()
    assert list(raw.json().values()) == [p["probability"] for p in expected]
    assert {"missile (657)", "missile (744)"} <= raw.json().keys()


def test_torchserve_s_errors_have_its_form(api: httpx.Client) -> None:
    rejected = api.post("/predictions/efficientnet-lite0", content=REJECTED)
    unknown = api.post("/predictions/none", content=ACCEPTED)
    delete = api.delete("/predictions/efficientnet-lite0")

    assert (rejected.status_code, rejected.json()["type"]) == (422, "out-of-distribution")
    assert (unknown.status_code, unknown.json()["code"]) == (404, 404)
    assert (delete.status_code, delete.headers["allow"]) == (405, "OPTIONS, POST, PUT")


def test_metrics_count_patterns_and_not_paths(api: httpx.Client) -> None:
    api.post("/v1/models/efficientnet-lite0:predict", json={"instances": []})
    metrics = api.get("/metrics").text

    assert 'route="/v1/models/{name}:predict",status="400"' in metrics
    assert 'route="/invocations",status="200"' in metrics
    assert "/v1/models/efficientnet-lite0:predict" not in metrics


def test_every_route_names_its_methods_to_those_who_use_another(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    assert len(paths) > 40

    for pattern, operations in paths.items():
        path = pattern.format(name="efficientnet-lite0", version="stable", file="app.js")
        methods = {name.upper() for name in operations} | {"OPTIONS"}
        methods |= {"HEAD"} & {name.replace("GET", "HEAD") for name in methods}
        allowed = ", ".join(sorted(methods))
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"} - methods:
            answer = api.request(method, path, headers=AS_ADMIN)
            assert (answer.status_code, answer.headers.get("allow")) == (405, allowed), path
        assert api.options(path, headers=AS_ADMIN).headers["allow"] == allowed


@pytest.mark.parametrize("verb", ["explain", "Predict", "predict:predict", ""])
def test_a_verb_that_does_not_exist_is_not_found(api: httpx.Client, verb: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        path = f"/v1/models/efficientnet-lite0:{verb}"
        assert api.request(method, path).status_code == 404


def test_dialects_that_are_off_are_not_there(client: httpx.Client) -> None:
    for path in ("/invocations", "/predictions/efficientnet-lite0", "/v1/models/m:predict"):
        assert client.post(path, content=ACCEPTED).status_code == 404


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.mark.parametrize(
    ("phases", "examples"),
    [("fuzzing", 2), pytest.param("coverage,fuzzing", 10, marks=pytest.mark.slow)],
)
@pytest.mark.timeout(10 * PATIENCE_S)
def test_every_route_does_what_its_openapi_description_says(
    platform_server: Server, tmp_path: Path, phases: str, examples: int
) -> None:
    """Schemathesis sends what the document allows and what it does not."""
    command: list[str | Path] = [
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={ROOT / 'tests/api/schemathesis.toml'}",
        *("run", f"{platform_server.url}/openapi.json", "--no-color", "--continue-on-failure"),
        *(f"--checks={','.join(CHECKS)}", f"--phases={phases}", f"--max-examples={examples}"),
        *("--suppress-health-check=all", "--seed=1", "--generation-database=none"),
        f"--header=Authorization: {AS_ADMIN['Authorization']}",
    ]

    environment = {**os.environ, "TIDEGATE_TEST_MODEL": "efficientnet-lite0"}
    output(command, tmp_path, environment, 10 * PATIENCE_S)
