"""Unmodified clients of the Open Inference Protocol get what /classify answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from load_tests.client.synthetic_images import Picture
from load_tests.comparison.perf_analyzer import input_data
from load_tests.peers.perf_analyzer import PerfAnalyzer, fetch
from tests.client_environments import TRITON_HTTP, run_client
from tests.processes import output
from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, running
from tidegate.service.api.dialects.v2.rpc.messages import HEALTH_MESSAGES, MESSAGES

pytestmark = [pytest.mark.slow, pytest.mark.process]

MODEL = "efficientnet-lite0"
ACCEPTED = [PHOTOS / name for name in ("chelsea.png", "coffee.png", "rocket.jpg")]
TRITON_GRPC = "tritonclient[grpc]==2.73.* grpcio-health-checking>=1.76"


@pytest.fixture(scope="module")
def served(demo_bundle: Path) -> Iterator[Server]:
    with running(demo_bundle, grpc_port=0) as started:
        yield started


@pytest.fixture(scope="module")
def answers(served: Server) -> list[Any]:
    """What /classify answers for each photo."""
    with httpx.Client(base_url=served.url, timeout=PATIENCE_S) as client:
        return [
            client.post("/classify?top_k=3", content=photo.read_bytes()).json()
            for photo in ACCEPTED
        ]


def rpc_address(server: Server) -> str:
    message: str = server.wait_for("serving gRPC on")["message"]
    return message.removeprefix("serving gRPC on ")


def check_rows(rows: Any, answers: list[Any]) -> None:
    """Check the outputs of several images against the answers of /classify."""
    best = [answer["predictions"][0] for answer in answers]
    assert rows["class_id"] == [[one["class_id"]] for one in best]
    assert rows["label"] == [one["label"] for one in best]
    assert rows["decision"] == [answer["decision"] for answer in answers]
    assert [max(row) for row in rows["probabilities"]] == pytest.approx(
        [one["probability"] for one in best]
    )
    assert [row[0] for row in rows["p_value"]] == pytest.approx(
        [answer["ood"]["p_value"] for answer in answers]
    )


def check_classified(texts: Any, answer: Any) -> None:
    assert texts["probabilities"] == [
        f"{one['probability']:f}:{one['class_id']}:{one['label']}"
        for one in answer["predictions"][:3]
    ]
    assert texts["decision"] == [f"1:0:{answer['decision']}"]


def test_tritonclient_over_http(served: Server, answers: list[Any]) -> None:
    address = served.url.removeprefix("http://")

    seen = run_client("tritonclient_http", TRITON_HTTP, address, MODEL, *ACCEPTED)

    for name in ("live", "ready", "model_ready", "alias_ready"):
        assert seen[name] is True
    assert seen["unknown_ready"] is False
    assert seen["metadata"]["name"] == seen["config"]["name"] == MODEL
    check_rows(seen["all"], answers)
    for name in ("flat", "gzip", "deflate"):
        check_rows(seen[name], answers[:1])
    for rows, answer in zip(seen["each"], answers, strict=True):  # with asyncio
        check_rows(rows, [answer])
    check_classified({name: row[0] for name, row in seen["classified"].items()}, answers[0])
    assert (seen["response"]["id"], seen["response"]["model_version"]) == ("mine", "1")
    assert {name: status for name, (status, _) in seen["errors"].items()} == {
        "unknown model": "404",
        "datatype": "400",
        "not an image": "400",
        "too many": "400",
        "late": "504",
        "output": "400",
    }
    assert seen["errors"]["not an image"][1].startswith("image 1: unsupported-image-type: ")
    [statistics] = seen["statistics"]["model_stats"]
    assert statistics["inference_count"] >= len(ACCEPTED)


def test_tritonclient_over_grpc(served: Server, answers: list[Any]) -> None:
    seen = run_client("tritonclient_grpc", TRITON_GRPC, rpc_address(served), MODEL, *ACCEPTED)

    for name in ("live", "ready", "model_ready"):
        assert seen[name] is True
    assert (seen["unknown_ready"], seen["health"], seen["id"]) == (False, 1, "mine")
    check_rows(seen["all"], answers)
    check_rows(seen["flat"], answers[:1])
    check_rows(seen["gzip"], answers[:1])
    check_classified(seen["classified"], answers[0])
    assert {name: status for name, (status, _) in seen["errors"].items()} == {
        "unknown model": "StatusCode.NOT_FOUND",
        "unknown version": "StatusCode.NOT_FOUND",
        "not an image": "StatusCode.INVALID_ARGUMENT",
        "too many": "StatusCode.INVALID_ARGUMENT",
        "late": "StatusCode.DEADLINE_EXCEEDED",
        "rejected": "StatusCode.FAILED_PRECONDITION",
        "datatype": "StatusCode.INVALID_ARGUMENT",
    }


def test_kserve(served: Server, answers: list[Any]) -> None:
    seen = run_client(
        "kserve_v2", "kserve==0.21.*", served.url, rpc_address(served), MODEL, *ACCEPTED
    )

    for protocol in ("rest", "grpc"):
        found = seen[protocol]
        assert all(found[name] is True for name in ("live", "ready", "model_ready"))
        assert found["answer"]["class_id"] == [
            [answer["predictions"][0]["class_id"]] for answer in answers
        ]
    assert "unsupported-image-type: " in seen["rest"]["error"]


def test_the_messages_are_those_of_the_official_definition() -> None:
    official = run_client("tritonclient_protocol", TRITON_GRPC)

    ours = [*MESSAGES.values(), *HEALTH_MESSAGES.values()]
    assert len(ours) > 30
    for message in ours:
        descriptor = message.DESCRIPTOR
        for field in descriptor.fields:
            found = official[descriptor.full_name][field.name]
            assert found == [field.number, field.type, bool(field.is_repeated)], field.full_name


@pytest.fixture(scope="module")
def perf_analyzer() -> PerfAnalyzer:
    try:
        return fetch(ROOT / "build" / "clients" / "perf_analyzer")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("way", ["http", "grpc", "pixels"])
def test_perf_analyzer(
    served: Server, perf_analyzer: PerfAnalyzer, tmp_path: Path, way: str
) -> None:
    data = tmp_path / "images.json"
    data.write_text(input_data([Picture(ACCEPTED[2].name, ACCEPTED[2].read_bytes())]))
    address = served.url.removeprefix("http://")
    ways: dict[str, list[str | Path]] = {
        "http": ["-m", MODEL, "-u", address, "--input-data", data],
        "grpc": ["-m", MODEL, "-i", "grpc", "-u", rpc_address(served), "--input-data", data],
        "pixels": ["-m", f"{MODEL}.pixels", "-u", address, "-b", "4"],  # random ones
    }
    brief = ["--measurement-mode", "count_windows", "--measurement-request-count", "5"]

    report = output(
        [perf_analyzer.program, *ways[way], *brief, "-s", "1000", "-r", "3"],
        ROOT,
        perf_analyzer.env,
        PATIENCE_S,
    )

    assert "Successful request count: " in report  # from the server's statistics
    assert "compute infer" in report
