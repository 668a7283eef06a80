"""The whole service on a real GPU: it runs the named engine, and reports it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.server import DEMO_BUNDLE, PHOTOS, Server, launched
from tidegate.service.engines.cuda.base import Cuda
from tidegate.service.engines.open_gpu import GPU_ENGINES

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


@pytest.mark.parametrize("engine", GPU_ENGINES)
def test_a_photograph_is_classified_by_the_named_engine(
    engine: str, cuda: Cuda, plans: Path
) -> None:
    with launched(DEMO_BUNDLE, engine=engine, plan_cache=plans) as server:
        ready = any(line.startswith("ready") for line in _until_it_decided(server))
        if not ready:
            refusal = next(line for line in server.messages() if line.startswith("refusing"))
            pytest.skip(refusal)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answer = client.post("/classify", content=(PHOTOS / "coffee.png").read_bytes())
            model = client.get("/models/efficientnet-lite0").json()
            metrics = client.get("/metrics").text

    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "espresso"
    assert model["engine"]["name"] == engine
    assert model["engine"]["device"].startswith("cuda:0")
    assert f'engine="{engine}"' in metrics
    assert 'tidegate_batch_duration_seconds_count{part="compute"} 1.0' in metrics


def _until_it_decided(server: Server) -> list[str]:
    with server.news:
        server.news.wait_for(
            lambda: (
                server.closed
                or any(line["message"].startswith(("ready", "refusing")) for line in server.lines)
            ),
            600,
        )
    return server.messages()
