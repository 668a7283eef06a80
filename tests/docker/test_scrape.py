"""A real Prometheus reads the OpenMetrics of a real server, with its exemplars."""

import json
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.programs import prometheus, wait_for
from tests.server import PATIENCE_S, PHOTOS, Server

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def _get(url: str, path: str, **query: str) -> Any:
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:  # noqa: S310 - loopback
        return json.load(answer)["data"]


@pytest.mark.slow
@pytest.mark.process
def test_prometheus_reads_openmetrics_and_keeps_exemplars(
    server: Server, client: httpx.Client, tmp_path: Path
) -> None:
    address = server.url.removeprefix("http://")
    with prometheus(tmp_path, address, options=["--enable-feature=exemplar-storage"]) as process:
        client.post(
            "/classify",
            content=(PHOTOS / "coffee.png").read_bytes(),
            headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        )

        def exemplars() -> list[dict[str, Any]]:
            found = _get(
                process.url,
                "query_exemplars",
                query="tidegate_request_duration_seconds_bucket",
                start=str(time.time() - 600),
                end=str(time.time() + 60),
            )
            return [one for series in found for one in series["exemplars"]]

        wait_for(exemplars, "no exemplar was read")
        [kept] = exemplars()
        [target] = _get(process.url, "targets")["activeTargets"]
        [classes] = _get(process.url, "query", query="count(tidegate_predictions_total)")["result"]

    assert kept["labels"] == {"trace_id": TRACE}
    assert target["health"] == "up"
    assert target["lastError"] == ""
    assert classes["value"][1] == "1000"
