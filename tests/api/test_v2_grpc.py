"""The Open Inference Protocol over gRPC: the answers of /classify, its limits and its end."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from tests.server import PATIENCE_S, PHOTOS, Server, running
from tidegate.service.api.dialects.v2.rpc.messages import HEALTH_MESSAGES, MESSAGES

NAME = "efficientnet-lite0"
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def channel(server: Server) -> Iterator[grpc.Channel]:
    address = server.wait_for("serving gRPC on")["message"].removeprefix("serving gRPC on ")
    with grpc.insecure_channel(address) as opened:
        yield opened


@pytest.fixture(scope="module")
def call(channel: grpc.Channel) -> Call:
    def answer(name: str, content: bytes | None = None, /, **fields: Any) -> Any:
        method = channel.unary_unary(f"/inference.GRPCInferenceService/{name}")
        request = MESSAGES[f"{name}Request"](**fields).SerializeToString()
        return MESSAGES[f"{name}Response"].FromString(
            method(request if content is None else content, timeout=PATIENCE_S)
        )

    return answer


def packed(*images: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def images(*photos: bytes, **fields: Any) -> dict[str, Any]:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [len(photos), 1]}
    return {
        "model_name": NAME,
        "inputs": [tensor],
        "raw_input_contents": [packed(*photos)],
        **fields,
    }


def outputs(response: Any) -> dict[str, Any]:
    dtypes = {"FP32": "<f4", "INT32": "<i4"}
    return {
        output.name: np.frombuffer(raw, dtypes[output.datatype]).reshape(output.shape)
        if output.datatype in dtypes
        else raw[4:].decode()
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def wait_until_in_progress(server: Server, calling: Any) -> None:
    """Wait until a call is in progress beside the request for the metrics, or answered."""
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        while not calling.done():
            if "tidegate_inflight_requests 2.0" in client.get("/metrics").text:
                return


@pytest.mark.parametrize("form", ["raw", "contents"])
def test_the_answer_is_that_of_classify(
    server: Server, call: Call, chelsea: bytes, form: str
) -> None:
    expected = httpx.post(f"{server.url}/classify", content=chelsea, timeout=PATIENCE_S).json()
    fields = images(chelsea, id="7")
    if form == "contents":
        del fields["raw_input_contents"]
        fields["inputs"][0]["contents"] = {"bytes_contents": [chelsea]}

    response = call("ModelInfer", **fields)

    found, best = outputs(response), expected["predictions"][0]
    assert (response.model_name, response.model_version, response.id) == (NAME, "1", "7")
    assert (found["class_id"], found["label"]) == (best["class_id"], best["label"])
    assert found["probabilities"].max() == pytest.approx(best["probability"])
    assert found["decision"] == expected["decision"]
    assert found["p_value"] == pytest.approx(expected["ood"]["p_value"])


def test_the_parameters_are_those_of_rest(call: Call, chelsea: bytes) -> None:
    response = call(
        "ModelInfer",
        **images(chelsea, parameters={"top_k": MESSAGES["InferParameter"](int64_param=3)}),
    )

    assert outputs(response)["class_id"].shape == (1, 3)


def test_what_the_server_and_the_models_are(call: Call) -> None:
    pixels = f"{NAME}.pixels"
    config = call("ModelConfig", name=pixels).config

    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ModelReady", name=NAME, version="stable").ready
    assert not call("ModelReady", name="unknown").ready
    assert call("ServerMetadata").name == "tidegate"
    assert list(call("ModelMetadata", name=NAME).inputs[0].shape) == [-1, 1]
    assert (list(config.input[0].dims), config.max_batch_size) == ([224, 224, 3], 16)
    assert [model.name for model in call("RepositoryIndex").models] == [NAME, pixels]
    assert call("ModelStatistics").model_stats[0].name == NAME
    assert call("ModelStatistics", name=NAME).model_stats[0].inference_count >= 0


def test_the_health_service(channel: grpc.Channel) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
    response = HEALTH_MESSAGES["HealthCheckResponse"]

    watching = watch(b"", timeout=PATIENCE_S)
    assert response.FromString(check(b"", timeout=PATIENCE_S)).status == 1
    assert response.FromString(next(watching)).status == 1
    watching.cancel()

    unknown = HEALTH_MESSAGES["HealthCheckRequest"](service="other").SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        check(unknown, timeout=PATIENCE_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


GRASS = (PHOTOS / "grass.png").read_bytes()
CHELSEA = (PHOTOS / "chelsea.png").read_bytes()
Status = grpc.StatusCode
ERRORS: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "model": ({**images(CHELSEA), "model_name": "x"}, Status.NOT_FOUND, "not-found: "),
    "version": (
        {**images(CHELSEA), "model_version": "9"},
        Status.NOT_FOUND,
        "has no version '9'",
    ),
    "no input": ({"model_name": NAME}, Status.INVALID_ARGUMENT, "expected 1 inputs but got 0"),
    "one of two": (images(CHELSEA, b"x"), Status.INVALID_ARGUMENT, "image 1: unsupported-image"),
    "too many": (images(*[b"x"] * 17), Status.INVALID_ARGUMENT, "batch-size must be <= 16"),
    "truncated": (
        {**images(CHELSEA), "raw_input_contents": [packed(CHELSEA)[:-1]]},
        Status.INVALID_ARGUMENT,
        "Element 0 of input 'image'",
    ),
    "data twice": (
        {**images(CHELSEA), "raw_input_contents": [b"", b""]},
        Status.INVALID_ARGUMENT,
        "must have its data once",
    ),
    "negative shape": (
        {
            "model_name": NAME,
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}],
        },
        Status.INVALID_ARGUMENT,
        "not as expected",
    ),
    "parameter": (
        images(CHELSEA, parameters={"top_k": MESSAGES["InferParameter"](string_param="x")}),
        Status.INVALID_ARGUMENT,
        "top_k",
    ),
    "rejected": (images(GRASS), Status.FAILED_PRECONDITION, "out-of-distribution: p = "),
    "late": (
        images(CHELSEA, parameters={"timeout": MESSAGES["InferParameter"](int64_param=1)}),
        Status.DEADLINE_EXCEEDED,
        "deadline-missed: ",
    ),
}


@pytest.mark.parametrize(("fields", "status", "details"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_has_its_status(
    call: Call, fields: dict[str, Any], status: grpc.StatusCode, details: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", **fields)

    assert caught.value.code() is status
    assert details in caught.value.details()
    assert dict(caught.value.trailing_metadata())["x-request-id"]


@pytest.mark.parametrize(
    ("content", "status", "details"),
    [
        (b"\xff\xff", Status.INVALID_ARGUMENT, "not a ModelInferRequest"),
        (b"\x2a\x00" * 30_000, Status.INVALID_ARGUMENT, "more than 4,096 fields"),
        (b"\x1a\xff\xff\x07" + b"x" * 131_071, Status.INVALID_ARGUMENT, "besides its data"),
        (bytes(17 << 20), Status.RESOURCE_EXHAUSTED, "larger than max"),
    ],
    ids=["malformed", "many fields", "large id", "too large"],
)
def test_a_hostile_message_is_refused(
    call: Call, content: bytes, status: grpc.StatusCode, details: str
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", content)

    assert caught.value.code() is status
    assert details in caught.value.details()


def test_a_call_that_is_cancelled_is_logged_as_one(
    server: Server, channel: grpc.Channel, chelsea: bytes
) -> None:
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    request = MESSAGES["ModelInferRequest"](**images(*[chelsea] * 16)).SerializeToString()

    calling = method.future(request, metadata=[("x-request-id", "cancelled-1")])
    wait_until_in_progress(server, calling)
    calling.cancel()

    line = server.wait_for("request", request_id="cancelled-1")
    assert line["status"] in (200, 499)  # 200: all images were answered before


def test_a_call_without_its_message(server: Server, channel: grpc.Channel) -> None:
    method = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
    held = threading.Event()

    def never() -> Iterator[bytes]:
        held.wait(PATIENCE_S)
        yield from ()

    calling = method.future(never(), metadata=[("x-request-id", "unfinished-1")])
    wait_until_in_progress(server, calling)
    calling.cancel()
    line = server.wait_for("request", request_id="unfinished-1")
    held.set()
    with pytest.raises(grpc.RpcError) as caught:
        method(iter(()), timeout=PATIENCE_S)

    assert line["status"] == 499
    assert caught.value.code() is Status.INVALID_ARGUMENT


def test_calls_are_counted_by_their_path(server: Server, call: Call) -> None:
    call("ServerLive")

    text = httpx.get(f"{server.url}/metrics", timeout=PATIENCE_S).text
    route = "/inference.GRPCInferenceService/ServerLive"
    assert f'tidegate_requests_total{{route="{route}",status="200"}}' in text


@pytest.mark.slow
def test_a_drain_answers_the_calls_in_progress(demo_bundle: Path, chelsea: bytes) -> None:
    with running(demo_bundle, grpc_port=0) as server:
        address = server.wait_for("serving gRPC on")["message"].removeprefix("serving gRPC on ")
        with grpc.insecure_channel(address) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            request = MESSAGES["ModelInferRequest"](**images(*[chelsea] * 8)).SerializeToString()
            calling = method.future(request, timeout=PATIENCE_S)
            wait_until_in_progress(server, calling)
            server.process.terminate()
            response = MESSAGES["ModelInferResponse"].FromString(calling.result(PATIENCE_S))
        assert server.process.wait(PATIENCE_S) == 0

    assert list(response.outputs[0].shape) == [8, 1000]
