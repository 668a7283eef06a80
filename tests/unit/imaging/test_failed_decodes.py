"""A decoding error keeps neither the pixels nor the upload in memory."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.imaging.pictures import encode, noise, png, spec
from tidegate.service.errors import ImageTooLarge, RequestError, UndecodableImage
from tidegate.service.imaging.decode import Size, decode_source

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]
PICTURE = noise(300, 200)


def truncated(format: str) -> bytes:
    data = encode(PICTURE.quantize(64) if format == "GIF" else PICTURE, format)
    return data[: len(data) * 2 // 3]


def damaged_tiff() -> bytes:
    data = bytearray(encode(PICTURE, "TIFF", compression="tiff_lzw"))
    data[1_000:9_000] = bytes(8_000)
    return bytes(data)


FAILING: dict[str, Callable[[], bytes]] = {
    "truncated JPEG": partial(truncated, "JPEG"),
    "truncated PNG": partial(truncated, "PNG"),
    "truncated WebP": partial(truncated, "WEBP"),
    "truncated GIF": partial(truncated, "GIF"),
    "truncated BMP": partial(truncated, "BMP"),
    "damaged TIFF": damaged_tiff,
    "PNG of few rows": partial(png, (300, 200), 8, 0, bytes(301 * 100)),
    "no pixels": partial(png, (0, 1), 8, 0),
    "corrupt header": lambda: png((1, 1), 16, 0)[:24] + encode(PICTURE, "PNG")[24:],
}


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def images() -> int:
    return sum(isinstance(thing, Image.Image) for thing in gc.get_objects())


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.usefixtures("no_collection")
def test_the_error_of_a_failed_decode_keeps_no_image_alive(name: str) -> None:
    data = FAILING[name]()
    before, references = images(), sys.getrefcount(data)

    with pytest.raises(RequestError) as failure:
        decode_source(data, spec(), lambda size: None)

    assert failure.value.__cause__ is failure.value.__context__ is None
    assert (images(), sys.getrefcount(data)) == (before, references)


@pytest.mark.usefixtures("no_collection")
def test_the_error_of_a_rejected_size_keeps_no_image_alive() -> None:
    def refuse(size: Size) -> None:
        raise ImageTooLarge("too large")

    data = encode(PICTURE, "PNG")
    before, references = images(), sys.getrefcount(data)

    with pytest.raises(ImageTooLarge):
        decode_source(data, spec(), refuse)

    assert (images(), sys.getrefcount(data)) == (before, references)


@pytest.mark.usefixtures("no_collection")
def test_an_error_is_freed_without_garbage_collection() -> None:
    def errors() -> int:
        return sum(isinstance(thing, UndecodableImage) for thing in gc.get_objects())

    before = errors()
    try:
        decode_source(truncated("PNG"), spec(), lambda size: None)
    except UndecodableImage:
        assert errors() == before + 1

    assert errors() == before


MEASURE = """
import gc
from pathlib import Path
from tidegate.service.errors import UndecodableImage
from tests.unit.imaging.pictures import encode, noise, preprocessed

def resident_kib():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])

files = [encode(noise(3000, 3000), "JPEG")[:-100_000], encode(noise(3000, 3000), "PNG")[:-100_000]]
gc.collect()
gc.freeze()
gc.disable()
kept, seen = [], []
for _ in range(12):
    for data in files:
        try:
            preprocessed(data)
        except UndecodableImage as error:
            kept.append(error)
    seen.append(resident_kib() // 1024)
print(len(kept), max(seen[1:]) - seen[0])
"""


def test_failing_nine_megapixel_images_leave_no_memory_behind() -> None:
    run = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True)

    failed, grown_mib = map(int, run.stdout.split())
    assert failed == 24, run.stderr
    assert grown_mib < 30  # a single image has 36 MB
