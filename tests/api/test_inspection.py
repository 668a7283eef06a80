"""POST /preprocess and /explain, GET /models/{name}/calibration and features, on a real server."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from tests.api.test_answers import nonsense
from tests.server import PATIENCE_S, PHOTOS, Server, running
from tidegate.service.bundle.store import MODEL, read_manifest
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.types import OUTPUT_NAMES

COFFEE = (PHOTOS / "coffee.png").read_bytes()
ESPRESSO = 967
MODEL_PATH = "/models/efficientnet-lite0"


def pixels_of(answer: httpx.Response) -> np.ndarray:
    assert answer.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def metric(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return float(found[1]) if found else 0.0


def eventually(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            return False
    return True


@pytest.mark.parametrize("photo", ["coffee.png", "rocket.jpg"])
@pytest.mark.parametrize("prefix", ["", MODEL_PATH, f"{MODEL_PATH}/versions/stable"])
def test_the_picture_is_what_the_network_gets(
    client: httpx.Client, demo_bundle: Path, photo: str, prefix: str
) -> None:
    image = (PHOTOS / photo).read_bytes()

    shown = pixels_of(client.post(f"{prefix}/preprocess", content=image))

    expected = preprocess(image, read_manifest(demo_bundle).preprocess, 25_000_000)
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize("route", ["preprocess", "explain"])
@pytest.mark.parametrize(
    ("image", "status"), [(b"", 400), (b"not an image", 415), (COFFEE[:5000], 422)]
)
def test_a_bad_image_gets_the_problem_of_classify(
    client: httpx.Client, route: str, image: bytes, status: int
) -> None:
    answer = client.post(f"/{route}", content=image)
    expected = client.post("/classify", content=image)

    assert (answer.status_code, answer.json()["code"]) == (status, expected.json()["code"])


def test_looking_is_counted_neither_as_an_answer_nor_for_drift(client: httpx.Client) -> None:
    def counted() -> list[float]:
        text = client.get("/metrics").text
        lines = re.findall(r"^tidegate_(?:predictions|ood_decisions)_total\S+ (\S+)$", text, re.M)
        return [sum(map(float, lines)), client.get("/drift").json()["images"]]

    before = counted()
    client.post("/preprocess", content=COFFEE).raise_for_status()
    client.post("/explain?grid=2", content=COFFEE).raise_for_status()

    assert counted() == before


def test_an_explanation_is_what_the_network_answers_with_parts_covered(
    client: httpx.Client, demo_bundle: Path
) -> None:
    body = client.post("/explain?grid=3", content=COFFEE).json()
    answer = client.post("/classify", content=COFFEE).json()

    assert (body["class_id"], body["label"], body["runs"]) == (ESPRESSO, "espresso", 10)
    assert body["probability"] == pytest.approx(answer["predictions"][0]["probability"], abs=1e-5)
    pixels = preprocess(COFFEE, read_manifest(demo_bundle).preprocess, 25_000_000).copy()
    side = 224 / 3
    pixels[round(side / 2) : round(2.5 * side), round(side / 2) : round(2.5 * side)] = body["fill"]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    middle = body["probabilities"][1][1]
    session = onnxruntime.InferenceSession(str(demo_bundle / MODEL))
    logits = session.run(["logits"], {"pixels": pixels[None]})[0][0].astype(np.float64)
    scaled = np.exp((logits - logits.max()) / read_manifest(demo_bundle).calibration.temperature)
    assert middle == pytest.approx(scaled[ESPRESSO] / scaled.sum(), abs=1e-4)
    p, q = body["probability"], middle
    fall = np.log(p / (1 - p)) - np.log(q / (1 - q))
    assert body["importance"][1][1] == pytest.approx(fall)


def test_covering_the_cup_matters_more_than_covering_the_table(client: httpx.Client) -> None:
    importance = np.array(client.post("/explain", content=COFFEE).json()["importance"])

    assert importance.shape == (7, 7)
    assert importance[1:4, 2:5].mean() > 3 * importance[5:, 5:].mean()


def test_the_map_of_another_class_differs(client: httpx.Client) -> None:
    cup = client.post("/explain?grid=2&class_id=968", content=COFFEE).json()

    assert (cup["class_id"], cup["label"]) == (968, "tea cup")
    assert cup["probability"] < 0.1


def test_with_accept_png_the_map_is_a_picture(client: httpx.Client) -> None:
    answer = client.post("/explain?grid=2", content=COFFEE, headers={"Accept": "image/png"})

    assert pixels_of(answer).shape == (224, 224, 3)


def test_a_rejected_image_has_a_map_only_of_a_class_that_is_named(client: httpx.Client) -> None:
    noise = nonsense()["noise"]
    refused = client.post("/explain?grid=2", content=noise)

    assert (refused.status_code, refused.json()["code"]) == (422, "out-of-distribution")
    assert client.post("/explain?grid=2&class_id=5", content=noise).status_code == 200


@pytest.mark.parametrize(
    "query", ["grid=1", "grid=15", "grid=x", "grid=3&grid=3", "class_id=1000", "class_id=-1"]
)
def test_a_bad_parameter_of_a_map_is_a_bad_request(client: httpx.Client, query: str) -> None:
    answer = client.post(f"/explain?{query}", content=COFFEE)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")


@pytest.mark.slow  # starts a server
def test_the_quota_counts_every_run_and_an_explanation_waits_for_it(demo_bundle: Path) -> None:
    with (
        running(demo_bundle, client_rate=4, client_burst=6) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        assert client.post("/explain?grid=2", content=COFFEE).json()["runs"] == 5
        started = time.monotonic()
        assert client.post("/explain?grid=2", content=COFFEE).json()["runs"] == 5
        took_s = time.monotonic() - started
        at_once = [client.post("/preprocess", content=COFFEE).status_code for _ in range(2)]

    assert took_s > 0.5  # at most 3 of its 5 runs had quota
    assert 429 in at_once


def test_a_client_that_leaves_ends_its_runs(server: Server, client: httpx.Client) -> None:
    gone, runs = 'tidegate_shed_total{reason="client-gone"}', "tidegate_batch_size_sum"
    gone_before, ran_before = metric(client, gone), metric(client, runs)
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.closing(socket.create_connection((host, int(port)))) as connection:
        head = f"POST /explain?grid=14 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(COFFEE)}\r\n\r\n"
        connection.sendall(head.encode() + COFFEE)
        assert eventually(lambda: metric(client, runs) > ran_before + 3)
        # A reset, because an end of input soon after the request may be a client that waits.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    assert eventually(lambda: metric(client, gone) == gone_before + 1)
    client.post("/classify", content=COFFEE).raise_for_status()
    assert metric(client, runs) < ran_before + 197


def test_a_late_explanation_is_a_problem(client: httpx.Client) -> None:
    answer = client.post(
        "/explain?grid=14", content=COFFEE, headers={"X-Request-Timeout-Ms": "300"}
    )

    assert answer.json()["code"] in {"deadline-missed", "overloaded"}


def test_the_calibration_is_the_bundles_in_bins(client: httpx.Client, demo_bundle: Path) -> None:
    gate = read_manifest(demo_bundle).gate
    body = client.get(f"{MODEL_PATH}/calibration").json()

    assert body == client.get(f"{MODEL_PATH}/versions/1/calibration?class_id=3").json()
    names = [score["name"] for score in body["scores"]]
    assert sorted(names) == sorted(gate.scores)
    assert [s["name"] for s in body["scores"] if s["decides"]] == list(gate.combination)
    assert {sum(score["counts"]) for score in body["scores"]} == {gate.fold_a}
    assert sum(body["combined"]["counts"]) == body["combined"]["size"] == gate.fold_b
    assert body["combined"]["review_above"] < body["combined"]["reject_above"]
    assert (body["alpha_reject"], body["alpha_review"]) == (gate.alpha_reject, gate.alpha_review)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/models/none/calibration", 404), (f"{MODEL_PATH}/calibration?class_id=1000", 400)],
)
def test_an_unknown_calibration_is_a_problem(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_features_are_the_sealed_graphs(client: httpx.Client, demo_bundle: Path) -> None:
    as_list = client.post("/classify?features=true", content=COFFEE).json()["features"]
    as_text = client.post("/classify?features=base64", content=COFFEE).json()["features"]
    pixels = preprocess(COFFEE, read_manifest(demo_bundle).preprocess, 25_000_000)
    session = onnxruntime.InferenceSession(str(demo_bundle / MODEL))
    features = session.run([OUTPUT_NAMES[1]], {"pixels": pixels[None]})[0][0]

    assert np.array_equal(np.frombuffer(base64.b64decode(as_text), "<f4"), np.float32(as_list))
    np.testing.assert_allclose(as_list, features, atol=1e-4)


def test_a_batch_has_the_features_of_each_image(client: httpx.Client) -> None:
    files = [("files", COFFEE), ("files", nonsense()["noise"])]
    first, second = client.post("/classify/batch?features=true", files=files).json()["results"]

    assert len(first["result"]["features"]) == 1280
    assert "features" not in second["problem"]


def test_classes_below_the_least_probability_are_left_out(client: httpx.Client) -> None:
    def probabilities(least: float) -> list[float]:
        answer = client.post(f"/classify?top_k=50&min_probability={least}", content=COFFEE)
        return [one["probability"] for one in answer.json()["predictions"]]

    assert len(probabilities(0)) == 50
    assert 0 < len(probabilities(0.001)) < 50
    assert min(probabilities(0.001)) >= 0.001
    assert probabilities(1) == []
