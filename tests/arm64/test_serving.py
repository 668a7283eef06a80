"""Tidegate in the emulated arm64 system of prepare.sh serves with the answers of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, launched
from tests.server import SERVE as SERVE_HERE

pytestmark = [pytest.mark.arm64, pytest.mark.process]

SERVE = (str(ROOT / "tests/arm64/run.sh"), "python3", "-m", "tidegate.service", "serve")
BUNDLES = {
    "fp32": ROOT / "models/bundles/efficientnet-lite0/1",
    "int8": ROOT / "models/bundles/efficientnet-lite0-int8/1",
}
# Kernels of the two CPUs add in another order; int8 rounds such a difference to its next step.
DIFFERENCE = {"fp32": 1e-4, "int8": 0.05}


def answers(server: Server) -> dict[str, Any]:
    """Return the answer to each photograph, without times."""
    found = {}
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        for photo in sorted(PHOTOS.glob("*.[jp][pn]g")):
            found[photo.name] = client.post("/classify", content=photo.read_bytes()).json()
    return found


@pytest.fixture(params=BUNDLES)
def precision(request: pytest.FixtureRequest) -> str:
    if not BUNDLES[request.param].exists():
        pytest.skip(f"no bundle: tidegate demo --precision {request.param}")
    return str(request.param)


def test_every_photograph_is_answered_as_on_this_machine(precision: str, tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "profile": "edge",
        "max_deadline_ms": 600_000,
        "deadline_ms": 600_000,
        "warm_up_cache": tmp_path,
    }
    with launched(BUNDLES[precision], SERVE_HERE, **settings) as here:
        here.wait_for("ready")
        expected = answers(here)

    with launched(BUNDLES[precision], SERVE, **settings) as emulated:
        emulated.wait_for("ready")
        found = answers(emulated)
        warm = emulated.wait_for("warm-up done")["message"]

    assert "resize neon" in warm
    assert "JPEGs decoded in part" in warm
    assert found.keys() == expected.keys()
    for name, answer in found.items():
        as_expected(answer, expected[name], DIFFERENCE[precision])


def as_expected(answer: dict[str, Any], expected: dict[str, Any], difference: float) -> None:
    for fixed in ("decision", "code", "status"):
        assert answer.get(fixed) == expected.get(fixed)
    assert answer["ood"]["p_value"] == pytest.approx(expected["ood"]["p_value"], abs=difference)
    classes = [
        {each["class_id"]: each["probability"] for each in one.get("predictions", ())}
        for one in (answer, expected)
    ]
    assert list(classes[0])[:1] == list(classes[1])[:1]
    for class_id in classes[0].keys() & classes[1].keys():
        assert classes[0][class_id] == pytest.approx(classes[1][class_id], abs=difference)
