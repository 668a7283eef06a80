"""Unmodified clients of the platforms get what /classify answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client_environments import run_client
from tests.server import PATIENCE_S, PHOTOS, Server, running

pytestmark = [pytest.mark.slow, pytest.mark.process]

MODEL = "efficientnet-lite0"
ACCEPTED, REJECTED = PHOTOS / "coffee.png", PHOTOS / "grass.png"


@pytest.fixture(scope="module")
def served(demo_bundle: Path) -> Iterator[Server]:
    with running(demo_bundle, dialects="v1,sagemaker,vertex,huggingface,torchserve") as started:
        yield started


@pytest.fixture(scope="module")
def classified(served: Server) -> Any:
    url = f"{served.url}/classify"
    return httpx.post(url, content=ACCEPTED.read_bytes(), timeout=PATIENCE_S).json()


def port_of(server: Server) -> str:
    return server.url.rpartition(":")[2]


def is_element(found: Any, classified: Any, top_k: int = 5) -> bool:
    """Return whether an element of `predictions` is the answer of /classify."""
    return bool(
        found["predictions"] == classified["predictions"][:top_k]
        and found["p_value"] == classified["ood"]["p_value"]
    )


def test_huggingface_hub(served: Server, classified: Any) -> None:
    seen = run_client("huggingface", "huggingface_hub>=1,<3", served.url, ACCEPTED, REJECTED)

    expected = [[p["label"], p["probability"]] for p in classified["predictions"]]
    assert (seen["raw"], seen["few"]) == (expected, expected[:2])
    assert seen["status"] == 422
    assert "out-of-distribution" in seen["text"]


def test_kserve_v1(served: Server, classified: Any) -> None:
    seen = run_client("kserve_v1", "kserve==0.21.*", served.url, MODEL, ACCEPTED, REJECTED)

    assert (seen["live"], seen["ready"]) == (True, "True")  # the text is of the protocol
    accepted, rejected = seen["predictions"]
    assert is_element(accepted, classified)
    assert (rejected["decision"], rejected["predictions"]) == ("reject", [])
    assert "1 to 16 instances" in seen["refusal"]


def test_sagemaker_local_mode(served: Server, classified: Any) -> None:
    seen = run_client("sagemaker_local", "sagemaker<3", port_of(served), ACCEPTED, REJECTED)

    assert seen["raw"]["predictions"] == classified["predictions"]
    assert seen["few"]["predictions"] == classified["predictions"][:2]
    assert seen["rejected"]["code"] == "out-of-distribution"
    for accepted, rejected in (seen["instances"]["predictions"], seen["lines"]):
        assert is_element(accepted, classified)
        assert rejected["decision"] == "reject"


def test_vertex_local_endpoint(served: Server, classified: Any) -> None:
    requirement = "google-cloud-aiplatform[prediction]"

    seen = run_client("vertex_local", requirement, port_of(served), ACCEPTED, REJECTED)

    assert seen["health"] == 200
    accepted, rejected = seen["predictions"]
    assert is_element(accepted, classified, top_k=2)
    assert rejected["decision"] == "reject"
    assert seen["raw"]["predictions"] == classified["predictions"]
