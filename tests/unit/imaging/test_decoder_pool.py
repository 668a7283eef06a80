"""Real processes that decode, and what becomes of an image that ends one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageTooLarge, UndecodableImage, UnsupportedImageType
from service.imaging.decoder_pool import DecoderPool
from service.imaging.preprocess import preprocess
from tests.server import PATIENCE_S, PHOTOS
from tests.unit.imaging.pictures import crop_fraction_then_resize, encode

SPEC = crop_fraction_then_resize(224)

MAX_PIXELS = 4_000_000


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    opened = DecoderPool(1, SPEC, MAX_PIXELS)
    yield opened
    opened.close()


def pid_of(pool: DecoderPool) -> int:
    process = pool._idle.get(timeout=PATIENCE_S)
    assert process is not None
    pool._idle.put(process)
    return process._process.pid


def test_pixels_are_those_of_this_process(pool: DecoderPool) -> None:
    for photo in sorted(PHOTOS.iterdir()):
        data = photo.read_bytes()

        np.testing.assert_array_equal(pool.preprocess(data), preprocess(data, SPEC, MAX_PIXELS))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"no image", UnsupportedImageType),
        (b"\xff\xd8\xff cut short", UndecodableImage),
        (encode(Image.new("RGB", (4001, 1000)), "PNG"), ImageTooLarge),
    ],
)
def test_a_refusal_is_that_of_this_process(
    pool: DecoderPool, data: bytes, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as expected:
        preprocess(data, SPEC, MAX_PIXELS)

    with pytest.raises(kind) as refused:
        pool.preprocess(data)

    assert str(refused.value) == str(expected.value)


def test_a_process_that_dies_costs_one_image_and_another_takes_its_place(
    pool: DecoderPool, chelsea: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first = pid_of(pool)
    os.kill(first, signal.SIGKILL)

    with pytest.raises(UndecodableImage, match="decoder failed"):
        pool.preprocess(chelsea)

    assert "signal 9" in caplog.text
    assert pool.preprocess(chelsea).size
    assert pid_of(pool) != first


def test_a_signal_to_the_whole_group_leaves_it_to_the_service(
    pool: DecoderPool, chelsea: bytes
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid_of(pool), number)

    assert pool.preprocess(chelsea).size


def test_its_memory_is_bounded(pool: DecoderPool) -> None:
    limits = Path(f"/proc/{pid_of(pool)}/limits").read_text("ascii").splitlines()

    (data,) = (line.split() for line in limits if line.startswith("Max data size"))

    assert int(data[3]) < 24 * MAX_PIXELS + (512 << 20)


def test_it_yields_to_the_service(pool: DecoderPool) -> None:
    assert os.getpriority(os.PRIO_PROCESS, pid_of(pool)) > os.getpriority(os.PRIO_PROCESS, 0)


def test_it_ends_with_the_service() -> None:
    pool = DecoderPool(1, SPEC, MAX_PIXELS)
    process = pool._idle.get(timeout=PATIENCE_S)
    assert process is not None

    process.connection.close()  # as when the service has gone, whatever ended it

    assert process._process.wait(PATIENCE_S) == 0
