from __future__ import annotations

import io
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server import PATIENCE_S, PHOTOS, running
from tidegate.service.api.schemas import BatchBody, ClassifyBody, Problem

HEX_256 = re.compile(r"^[0-9a-f]{64}$")


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def nonsense() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    return {
        "noise": png(rng.integers(0, 256, (256, 256, 3), np.uint8)),
        "flat": png(np.full((256, 256, 3), (40, 90, 200), np.uint8)),
        "black": png(np.zeros((256, 256, 3), np.uint8)),
    }


@pytest.mark.parametrize(
    ("photo", "label", "probability"),
    [
        ("chelsea.png", "cat having a striped coat", 0.39),
        ("coffee.png", "espresso", 0.95),
        ("camera.png", "tripod", 0.94),
    ],
)
def test_a_known_photo_gets_the_expected_answer(
    client: httpx.Client, photo: str, label: str, probability: float
) -> None:
    model = client.get("/models/efficientnet-lite0").json()
    temperature = model["calibration"]["temperature"]

    answer = client.post("/classify?top_k=1000", content=(PHOTOS / photo).read_bytes())

    assert answer.status_code == 200
    best, *_ = predictions = answer.json()["predictions"]
    assert label in best["label"].lower()
    # The known answers are those of the plain softmax, to two digits.
    plain = [prediction["probability"] ** temperature for prediction in predictions]
    assert plain[0] / sum(plain) == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize("photo", ["chelsea.png", "coffee.png", "camera.png", "rocket.jpg"])
def test_a_photo_is_accepted(client: httpx.Client, photo: str) -> None:
    body = client.post("/classify", content=(PHOTOS / photo).read_bytes()).json()

    assert body["decision"] == "accept"
    assert body["ood"]["p_value"] > body["ood"]["alpha_review"]


@pytest.mark.parametrize("kind", sorted(nonsense()))
def test_synthetic_ood_images_are_rejected_without_predictions(
    client: httpx.Client, kind: str
) -> None:
    answer = client.post("/classify", content=nonsense()[kind])

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] == "out-of-distribution"
    assert body["ood"]["p_value"] <= body["ood"]["alpha_reject"]
    assert body["model"]["name"] == "efficientnet-lite0"
    assert "predictions" not in body


def test_with_ood_action_flag_a_rejected_image_is_answered(demo_bundle: Path) -> None:
    with running(demo_bundle, ood_action="flag") as server:
        answer = httpx.post(
            f"{server.url}/classify", content=nonsense()["noise"], timeout=PATIENCE_S
        )

    assert answer.status_code == 200
    assert answer.json()["decision"] == "reject"
    assert len(answer.json()["predictions"]) == 5


def test_an_answer_has_every_field_of_the_contract(client: httpx.Client, chelsea: bytes) -> None:
    body = client.post("/classify", params={"top_k": 3}, content=chelsea).json()

    assert body.keys() == {
        "request_id",
        "model",
        "decision",
        "predictions",
        "ood",
        "timing_ms",
        "batch_size",
    }
    assert body["model"].keys() == {"name", "version", "digest"}
    assert HEX_256.match(body["model"]["digest"])
    assert [p.keys() for p in body["predictions"]] == [{"class_id", "label", "probability"}] * 3
    probabilities = [p["probability"] for p in body["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)
    ood = body["ood"]
    assert ood.keys() == {
        "p_value",
        "percentile",
        "alpha_reject",
        "alpha_review",
        "calibration_size",
        "energy",
        "mahalanobis",
        "decided_by",
    }
    assert ood["energy"].keys() == {"score", "p_value"}
    assert ood["mahalanobis"].keys() == {"score", "p_value", "nearest_class"}
    assert all(item.keys() == {"name", "score", "p_value"} for item in ood["decided_by"])
    timing = body["timing_ms"]
    assert timing.keys() == {"decode", "queue", "engine", "total"}
    parts = timing["decode"] + timing["queue"] + timing["engine"]
    assert timing["total"] == pytest.approx(parts, abs=0.01)  # each is rounded to a microsecond
    assert body["batch_size"] >= 1


def test_top_k_above_the_number_of_classes_returns_all_classes(
    client: httpx.Client, chelsea: bytes
) -> None:
    body = client.post("/classify", params={"top_k": 5000}, content=chelsea).json()

    assert len({p["class_id"] for p in body["predictions"]}) == 1000
    assert sum(p["probability"] for p in body["predictions"]) == pytest.approx(1, abs=1e-9)


def test_multipart_and_raw_uploads_get_the_same_answer(
    client: httpx.Client, chelsea: bytes
) -> None:
    raw = client.post("/classify", content=chelsea, headers={"Content-Type": "image/png"}).json()
    form = client.post("/classify", files={"file": ("cat.png", chelsea)}).json()

    assert form["predictions"] == raw["predictions"]
    assert form["ood"] == raw["ood"]


def test_the_image_format_is_read_from_the_content_not_from_the_content_type(
    client: httpx.Client, chelsea: bytes
) -> None:
    answer = client.post("/classify", content=chelsea, headers={"Content-Type": "text/plain"})

    assert answer.status_code == 200


def test_a_batch_answers_each_image_in_order(client: httpx.Client, chelsea: bytes) -> None:
    coffee = (PHOTOS / "coffee.png").read_bytes()
    images = [chelsea, b"not an image", coffee, nonsense()["black"]]

    body = client.post(
        "/classify/batch", files=[("files", (str(i), image)) for i, image in enumerate(images)]
    ).json()

    assert [item["status"] for item in body["results"]] == [200, 415, 200, 422]
    singles = [client.post("/classify", content=image).json() for image in (chelsea, coffee)]
    for item, single in zip(body["results"][::2], singles, strict=True):
        assert item["result"]["predictions"][0]["class_id"] == single["predictions"][0]["class_id"]
    assert body["results"][1]["problem"]["code"] == "unsupported-image-type"
    assert body["results"][3]["problem"]["code"] == "out-of-distribution"


def test_request_id_and_trace_id_are_used_and_returned(
    client: httpx.Client, chelsea: bytes
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = client.post(
        "/classify",
        content=chelsea,
        headers={
            "X-Request-Id": "order-42",
            "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
            "tracestate": "vendor=a, other=b",
        },
    )

    assert answer.headers["x-request-id"] == "order-42"
    assert answer.json()["request_id"] == "order-42"
    # No span is exported, so the caller's is the last one of the trace.
    assert answer.headers["traceparent"] == f"00-{trace}-00f067aa0ba902b7-01"
    assert answer.headers["tracestate"] == "vendor=a,other=b"


@pytest.mark.parametrize("bad", ["a b", "x" * 129, 'quo"te'])
def test_a_malformed_request_id_is_replaced(client: httpx.Client, bad: str) -> None:
    answer = client.get("/livez", headers={"X-Request-Id": bad})

    assert re.match(r"^[0-9a-f]{32}$", answer.headers["x-request-id"])


def test_answers_have_the_fields_that_openapi_shows(client: httpx.Client) -> None:
    accepted = client.post("/classify", content=(PHOTOS / "coffee.png").read_bytes())
    refused = client.post("/classify", content=nonsense()["noise"])
    both = client.post(
        "/classify/batch",
        files=[("files", (PHOTOS / "coffee.png").read_bytes()), ("files", nonsense()["noise"])],
    )

    assert ClassifyBody.model_validate(accepted.json()).model_dump() == accepted.json()
    problem = Problem.model_validate(refused.json())
    assert problem.model_dump(exclude_none=True) == refused.json()
    items = BatchBody.model_validate(both.json())
    assert items.model_dump(exclude_none=True) == both.json()


def server_timing(answer: httpx.Response) -> dict[str, float]:
    parts = [part.split(";dur=") for part in answer.headers["Server-Timing"].split(", ")]
    return {name: float(ms) for name, ms in parts}


def test_server_timing_has_the_steps_of_the_image(client: httpx.Client) -> None:
    answer = client.post("/classify", content=(PHOTOS / "coffee.png").read_bytes())

    timing = server_timing(answer)
    assert list(timing) == ["read", "decode", "queue", "engine", "gates", "predicted", "total"]
    assert timing.items() >= answer.json()["timing_ms"].items()
    assert 0 < timing["predicted"] < 1000 * PATIENCE_S


def test_server_timing_of_an_error_has_the_steps_that_were_passed(client: httpx.Client) -> None:
    rejected = client.post("/classify", content=nonsense()["noise"])
    broken = client.post("/classify", content=(PHOTOS / "coffee.png").read_bytes()[:5000])
    no_image = client.post("/classify", content=b"no image")
    batch = client.post("/classify/batch", files=[("files", b"no image"), ("files", b"none")])
    no_route = client.post("/classify/it")

    assert list(server_timing(rejected))[1:5] == ["decode", "queue", "engine", "gates"]
    assert broken.status_code == 422
    assert list(server_timing(broken)) == ["read", "decode", "queue", "predicted", "total"]
    assert list(server_timing(no_image)) == ["read", "total"]
    assert list(server_timing(batch)) == ["read", "total"]
    assert "Server-Timing" not in no_route.headers
