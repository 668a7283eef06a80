"""The bare loop that servers are compared with, on a tiny model."""

import asyncio
import itertools
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from load_tests.comparison.baseline import Pace, bare_loop
from load_tests.comparison.baseline_process import run_round
from load_tests.errors import MeasurementFailed
from load_tests.peers.plain_classifier import Classifier
from tests.unit.load_tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.process


def _encoded() -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_round_counts_its_images_and_its_own_cpu(tmp_path: Path) -> None:
    classifier = Classifier(write_tiny_model(tmp_path))
    drawn = itertools.count()
    images = (_encoded() for _ in drawn)

    result = run_round(classifier, images, seconds=0.1)

    assert result["images"] == next(drawn) >= 1
    assert result["wall_s"] >= 0.1
    assert 0 < result["cpu_s"] <= result["wall_s"] + 0.02  # one thread; clocks differ by a little
    assert 0 < result["p50_ms"] <= 1000 * result["wall_s"]


def test_processes_loop_together_and_singly_and_end_with_the_block(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(_encoded())

    async def run() -> tuple[list[Pace], list[int | None]]:
        async with bare_loop(write_tiny_model(tmp_path), tmp_path, processes=2) as loop:
            paces = [
                await loop.together(0.1),
                await loop.single(0.1),
                await loop.single_on_all_cores(0.1),
            ]
        return paces, [process.returncode for process in loop.processes]

    paces, codes = asyncio.run(run())

    assert all(pace.per_s > 0 and pace.cpu_ms > 0 and pace.p50_ms > 0 for pace in paces)
    assert None not in codes


@pytest.mark.filterwarnings("ignore:subprocess .* is still running")
def test_a_process_that_cannot_load_its_model_raises(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(_encoded())

    async def run() -> None:
        async with bare_loop(tmp_path, tmp_path, processes=1):
            pytest.fail("there is no model")

    with pytest.raises(MeasurementFailed, match="exited early"):
        asyncio.run(run())
