"""The scores of the committed photographs, which every build of the demo must reproduce."""

from __future__ import annotations

from tidegate.models.data.outputs import MAX_PIXELS
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.sealing.check import run
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.imaging.preprocess import preprocess


def witness_scores(head: GateHead, sealed: bytes) -> dict[str, dict[str, float]]:
    """Return the scores of every committed photo, which a build must reproduce."""
    images = [preprocess(path.read_bytes(), PREPROCESS, MAX_PIXELS) for path in PHOTOS]
    rows = run(sealed, images).scores.tolist()
    return {
        path.name: dict(zip(head.names, row, strict=True))
        for path, row in zip(PHOTOS, rows, strict=True)
    }
