"""The Open Inference Protocol over HTTP: the answers of /classify, in its own forms."""

from __future__ import annotations

import base64
import gzip
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server import PHOTOS, running

MODEL = "/v2/models/efficientnet-lite0"
INFER = f"{MODEL}/infer"
PIXELS = f"{MODEL}.pixels/infer"
LENGTH = "Inference-Header-Content-Length"


def photo(name: str) -> bytes:
    return (PHOTOS / name).read_bytes()


def packed(images: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def head(shape: list[int], **fields: Any) -> bytes:
    tensor = {"name": "image", "datatype": "BYTES", "shape": shape}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def as_json(images: list[bytes], **fields: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in images]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(images), 1], "data": data}
    return {"inputs": [tensor], **fields}


def binary(client: httpx.Client, images: list[bytes], path: str = INFER) -> httpx.Response:
    text = head([len(images), 1], parameters={"binary_data_output": True})
    return client.post(path, content=text + packed(images), headers={LENGTH: str(len(text))})


def outputs(answer: httpx.Response) -> dict[str, Any]:
    """Return the values of a response's outputs, JSON or binary."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    left = answer.content[length:]
    found = {}
    for output in json.loads(answer.content[:length])["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = _values(output["datatype"], left[:size])
        left = left[size:]
    assert not left
    return found


def _values(datatype: str, content: bytes) -> list[Any]:
    if datatype != "BYTES":
        dtype = {"FP32": "<f4", "INT32": "<i4"}[datatype]
        values: list[Any] = np.frombuffer(content, dtype).tolist()
        return values
    texts = []
    while content:
        (size,) = struct.unpack_from("<I", content)
        texts.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    return texts


def ways() -> dict[str, Callable[[httpx.Client, bytes], httpx.Response]]:
    """Return every way to send one image."""

    def coded(coding: str, compress: Callable[[bytes], bytes]) -> Any:
        return lambda client, image: client.post(
            INFER,
            content=compress(head([1]) + packed([image])),
            headers={LENGTH: str(len(head([1]))), "Content-Encoding": coding},
        )

    return {
        "json": lambda client, image: client.post(INFER, json=as_json([image])),
        "binary": lambda client, image: binary(client, [image]),
        "raw": lambda client, image: client.post(INFER, content=image, headers={LENGTH: "0"}),
        "gzip": coded("gzip", gzip.compress),
        "deflate": coded("deflate", zlib.compress),
        "version": lambda client, image: binary(client, [image], f"{MODEL}/versions/1/infer"),
        "alias": lambda client, image: binary(client, [image], f"{MODEL}/versions/stable/infer"),
    }


@pytest.mark.parametrize("send", ways().values(), ids=ways().keys())
def test_every_way_gives_the_answer_of_classify(
    client: httpx.Client, chelsea: bytes, send: Callable[[httpx.Client, bytes], httpx.Response]
) -> None:
    expected = client.post("/classify?top_k=1000", content=chelsea).json()
    best, ood = expected["predictions"][0], expected["ood"]

    found = outputs(send(client, chelsea))

    by_class = sorted(expected["predictions"], key=lambda one: one["class_id"])
    assert found["probabilities"] == pytest.approx([one["probability"] for one in by_class])
    assert found["class_id"] == [best["class_id"]]
    assert found["label"] == [best["label"]]
    assert found["decision"] == [expected["decision"]]
    assert found["p_value"] == pytest.approx([ood["p_value"]])
    assert found["energy_p_value"] == pytest.approx([ood["energy"]["p_value"]])
    assert found["mahalanobis_p_value"] == pytest.approx([ood["mahalanobis"]["p_value"]])
    assert found["nearest_class"] == [ood["mahalanobis"]["nearest_class"]]


def test_the_classes_in_order(client: httpx.Client, chelsea: bytes) -> None:
    best = client.post("/classify?top_k=2", content=chelsea).json()["predictions"]
    names = ("probabilities", "class_id", "label", "decision", "p_value", "nearest_class")
    wanted = [{"name": name, "parameters": {"classification": 2}} for name in names]

    columns = outputs(client.post(INFER, json=as_json([chelsea], parameters={"top_k": 2})))
    texts = outputs(client.post(INFER, json=as_json([chelsea], outputs=wanted)))

    assert columns["class_id"] == [one["class_id"] for one in best]
    assert columns["label"] == [one["label"] for one in best]
    assert columns["probabilities"] == pytest.approx([one["probability"] for one in best])
    assert texts["probabilities"] == [
        f"{one['probability']:f}:{one['class_id']}:{one['label']}" for one in best
    ]
    for name in names[1:]:
        assert len(texts[name]) == 1
        assert len(texts[name][0].split(":")) == 3
    assert texts["decision"] == ["1:0:accept"]


def test_features_are_returned_on_request(client: httpx.Client, chelsea: bytes) -> None:
    expected = client.post("/classify?features=true", content=chelsea).json()["features"]

    body = as_json([chelsea, chelsea], outputs=[{"name": "features"}])
    answer = client.post(INFER, json=body).json()["outputs"][0]

    assert answer["shape"] == [2, len(expected)]
    assert answer["data"] == pytest.approx([*expected, *expected], rel=1e-5, abs=1e-5)


def test_the_id_is_echoed_also_if_it_is_empty(client: httpx.Client, chelsea: bytes) -> None:
    assert client.post(INFER, json=as_json([chelsea], id="")).json()["id"] == ""
    assert client.post(INFER, json=as_json([chelsea], id="7")).json()["id"] == "7"
    assert "id" not in client.post(INFER, json=as_json([chelsea])).json()


def test_a_rejected_image_alone_is_an_error(client: httpx.Client) -> None:
    answer = binary(client, [photo("grass.png")])

    assert answer.status_code == 422
    assert answer.json()["error"].startswith("out-of-distribution: p = ")
    assert answer.json()["ood"]["p_value"] <= answer.json()["ood"]["alpha_reject"]


@pytest.mark.parametrize("images", [["grass.png"], ["grass.png", "coffee.png"]])
def test_a_rejected_image_has_no_class(client: httpx.Client, images: list[str]) -> None:
    parameters = {"ood_action": "flag"} if len(images) == 1 else {}
    body = as_json([photo(name) for name in images], parameters=parameters)

    found = outputs(client.post(INFER, json=body))

    assert (found["class_id"][0], found["label"][0], found["decision"][0]) == (-1, "", "reject")
    assert found["probabilities"][:1000] == [0] * 1000
    assert found["p_value"][0] < 0.01
    if len(images) == 2:
        assert (found["label"][1], found["decision"][1]) == ("espresso", "accept")


def test_pixels_are_classified_as_they_are(client: httpx.Client) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 224, 224, 3), np.uint8)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": pixels.shape}
    names = ("probabilities", "nearest_class", "decision", "p_value")
    fields: dict[str, Any] = {"outputs": [{"name": name} for name in names]}
    text = json.dumps({"inputs": [tensor], **fields}).encode()
    encoded = client.post("/classify", content=_bmp(pixels[0])).json()

    sent = client.post(PIXELS, content=text + pixels.tobytes(), headers={LENGTH: str(len(text))})
    listed = client.post(
        PIXELS, json={"inputs": [{**tensor, "data": pixels.ravel().tolist()}], **fields}
    )

    assert outputs(sent) == outputs(listed)
    assert encoded["code"] == "out-of-distribution"  # the same decision on nearly the same pixels
    assert outputs(sent)["p_value"] == pytest.approx([encoded["ood"]["p_value"]], abs=0.01)
    assert outputs(sent)["decision"] == ["reject"]
    refused = client.post(
        PIXELS,
        json={
            "inputs": [{**tensor, "data": pixels.ravel().tolist()}],
            "parameters": {"ood_action": "reject"},
        },
    )
    assert refused.status_code == 422


def _bmp(pixels: np.ndarray) -> bytes:
    height, width, _ = pixels.shape
    size = height * width * 3
    header = b"BM" + struct.pack("<IHHI", 54 + size, 0, 0, 54)
    info = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 24, 0, size, 2835, 2835, 0, 0)
    return header + info + pixels[..., ::-1].tobytes()


CHELSEA = photo("chelsea.png")
ONE = head([1])
ERRORS: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "unknown model": ("/v2/models/x/infer", {"json": as_json([CHELSEA])}, 404, "not-found: "),
    "unknown version": (
        f"{MODEL}/versions/9/infer",
        {"json": as_json([CHELSEA])},
        404,
        "not-found: efficientnet-lite0 has no version '9'",
    ),
    "no route": ("/v2/nothing", {}, 404, "not-found: "),
    "method": ("/v2", {}, 405, "method-not-allowed: "),
    "not JSON": (INFER, {"content": b"text"}, 400, "bad-request: The JSON of the request"),
    "NaN": (
        INFER,
        {"content": b'{"inputs":[{"name":"image","shape":[NaN],"datatype":"BYTES"}]}'},
        400,
        "bad-request: ",
    ),
    "deep JSON": (INFER, {"content": b"[" * 100_000}, 400, "bad-request: "),
    "many objects": (
        INFER,
        {"content": b'{"inputs":[' + b"{}," * 100_000 + b"{}]}"},
        400,
        "bad-request: The JSON of the request has more than 256 objects",
    ),
    "truncated tensor": (
        INFER,
        {"content": ONE + packed([CHELSEA])[:-1], "headers": {LENGTH: str(len(ONE))}},
        400,
        "bad-request: Element 0 of input 'image'",
    ),
    "trailing bytes": (
        INFER,
        {"content": ONE + packed([CHELSEA]) + b"xy", "headers": {LENGTH: str(len(ONE))}},
        400,
        "bad-request: 2 bytes follow the last",
    ),
    "header beyond the body": (
        INFER,
        {"content": ONE, "headers": {LENGTH: "10000"}},
        400,
        "bad-request: Inference-Header-Content-Length is 10,000",
    ),
    "empty": (INFER, {"headers": {LENGTH: "0"}}, 400, "bad-request: "),
    "broken image": (
        INFER,
        {"content": CHELSEA[:5000], "headers": {LENGTH: "0"}},
        400,
        "undecodable-image: ",
    ),
    "no image": (INFER, {"json": as_json([b"text"])}, 400, "unsupported-image-type: "),
    "one of three": (
        INFER,
        {"json": as_json([CHELSEA, CHELSEA, b"text"])},
        400,
        "image 2: unsupported-image-type: ",
    ),
    "too many": (
        INFER,
        {"json": as_json([b"x"] * 17)},
        400,
        "bad-request: inference request batch",
    ),
    "late": (
        INFER,
        {"json": as_json([CHELSEA], parameters={"timeout": 1})},
        504,
        "deadline-missed: ",
    ),
    "bomb": (
        INFER,
        {"content": gzip.compress(bytes(40 << 20)), "headers": {"Content-Encoding": "gzip"}},
        413,
        "upload-too-large: ",
    ),
    "coding": (
        INFER,
        {"content": b"x", "headers": {"Content-Encoding": "br"}},
        415,
        "unsupported-encoding: ",
    ),
    "too large": (INFER, {"content": bytes(17 << 20)}, 413, "upload-too-large: "),
    "float pixels": (
        PIXELS,
        {
            "json": {
                "inputs": [
                    {"name": "pixels", "datatype": "FP32", "shape": [1, 224, 224, 3], "data": [0]}
                ]
            }
        },
        400,
        "data-type is 'FP32', but model 'efficientnet-lite0.pixels' expects 'UINT8'",
    ),
    "shared memory": (
        "/v2/systemsharedmemory/region/r/register",
        {},
        400,
        "shared memory is not supported",
    ),
}


@pytest.mark.parametrize(("path", "sent", "status", "error"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_has_the_form_of_the_protocol(
    client: httpx.Client, path: str, sent: dict[str, Any], status: int, error: str
) -> None:
    answer = client.post(path, **sent)

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert error in answer.json()["error"]


def test_what_the_models_are(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"live": True, "ready": True}
    assert client.get(f"{MODEL}/ready").json() == {"name": "efficientnet-lite0", "ready": True}
    assert client.get("/v2/models/x/ready").status_code == 404
    assert client.get("/v2/models").json()["models"] == [
        "efficientnet-lite0",
        "efficientnet-lite0.pixels",
    ]
    for name, tensor, config in (
        ("", {"name": "image", "datatype": "BYTES", "shape": [-1, 1]}, ("TYPE_STRING", [1])),
        (
            ".pixels",
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 224, 224, 3]},
            ("TYPE_UINT8", [224, 224, 3]),
        ),
    ):
        metadata = client.get(f"{MODEL}{name}/versions/1").json()
        found = client.get(f"{MODEL}{name}/config").json()
        assert (metadata["versions"], metadata["inputs"]) == (["1"], [tensor])
        assert metadata["outputs"][0]["name"] == found["output"][0]["name"] == "probabilities"
        assert (found["input"][0]["data_type"], found["input"][0]["dims"]) == config
        assert found["max_batch_size"] == 16


def test_the_statistics_only_increase(client: httpx.Client, chelsea: bytes) -> None:
    def stats() -> dict[str, Any]:
        [found] = client.get(f"{MODEL}/stats").json()["model_stats"]
        return dict(found)

    before = stats()
    binary(client, [chelsea, chelsea])
    binary(client, [b"text"])
    after = stats()

    assert after["inference_count"] == before["inference_count"] + 2
    assert after["execution_count"] > before["execution_count"]
    for part, images in (("success", 2), ("queue", 2), ("compute_infer", 2), ("fail", 1)):
        was, now = before["inference_stats"][part], after["inference_stats"][part]
        assert now["count"] == was["count"] + images, part
        assert now["ns"] > was["ns"]
    assert (
        sum(batch["compute_infer"]["count"] for batch in after["batch_stats"])
        == (after["execution_count"])
    )


def test_requests_are_counted_by_their_pattern(client: httpx.Client, chelsea: bytes) -> None:
    line = 'tidegate_requests_total{route="/v2/models/{name}/infer",status="200"}'

    def count() -> float:
        [found] = [one for one in client.get("/metrics").text.splitlines() if line in one]
        return float(found.split()[-1])

    before = count()
    binary(client, [chelsea])

    assert count() == before + 1


@pytest.mark.slow
def test_without_the_dialect_there_are_no_such_routes(demo_bundle: object) -> None:
    with running(dialects="none") as server:
        answer = httpx.get(server.url + "/v2")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
