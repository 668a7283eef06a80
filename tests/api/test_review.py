"""Images kept for review and feedback, on a running service."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from tests.server import PATIENCE_S, running
from tests.unit.imaging.pictures import encode, noise
from tidegate.service.cli import main


def test_reviewed_images_are_kept_labelled_and_exported(
    tmp_path: Path, chelsea: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    unusual = encode(noise(300, 300), "PNG")
    kept = tmp_path / "kept"
    with (
        running(review_dir=kept, review_images_per_s=10) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client,
    ):
        refused = client.post("/classify", content=unusual)
        answered = client.post("/classify", content=chelsea).json()
        right = {"request_id": answered["request_id"], "class_id": 281}
        feedback = client.post("/feedback", json=right)
        client.post("/feedback", json=right)
        corrected = client.post(
            "/feedback", json={"request_id": refused.json()["request_id"], "class_id": 5}
        )
        unknown = client.post("/feedback", json={"request_id": "unknown", "class_id": 5})
        no_class = client.post("/feedback", json={**right, "class_id": 1000})
        no_json = client.post("/feedback", content=b"{")
        metrics = client.get("/metrics").text

    assert refused.status_code == 422
    assert feedback.json()["correct"] == (answered["predictions"][0]["class_id"] == 281)
    assert corrected.json()["correct"] is False
    assert (unknown.status_code, no_class.status_code, no_json.status_code) == (404, 400, 400)
    assert unknown.json()["code"] == "not-found"
    assert 'tidegate_feedback_total{correct="false",digest="' in metrics
    (sidecar,) = kept.glob("*/*.json")
    record = json.loads(sidecar.read_bytes())
    assert (record["decision"], record["true_class"]) == ("reject", 5)
    assert (sidecar.parent / record["file"]).read_bytes() == unusual

    assert main(["review", "export", str(kept), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.split() == ["1", "5"]
    assert len(list((tmp_path / "out" / "5").glob("*.png"))) == 1


def test_feedback_needs_no_folder(client: httpx.Client, chelsea: bytes) -> None:
    request_id = client.post("/classify", content=chelsea).json()["request_id"]

    answer = client.post("/feedback", json={"request_id": request_id, "class_id": 0})

    assert answer.status_code == 200
    assert answer.json()["request_id"] == request_id
