"""The real nvImageCodec without a GPU: on its own CPU decoder, which is libjpeg-turbo, not nvJPEG.

It shows that the calls are right, and nothing of nvJPEG's pixels or speed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.server import PHOTOS
from tests.unit.imaging.pictures import resize, spec
from tidegate.service.errors import UndecodableImage
from tidegate.service.imaging import nvjpeg
from tidegate.service.imaging.preprocess import preprocess

pytestmark = [pytest.mark.gpu_packages, pytest.mark.timeout(300)]
codec: Any = pytest.importorskip("nvidia.nvimgcodec")
PHOTO = PHOTOS / "rocket.jpg"


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = [codec.Backend(codec.BackendKind.CPU_ONLY)]
    decoder = codec.Decoder(
        device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=backends, options=nvjpeg._OPTIONS
    )
    monkeypatch.setattr(nvjpeg, "_decoder", lambda: decoder)


def test_without_a_gpu_it_says_why_it_cannot_be_used() -> None:
    why = nvjpeg.why_unavailable(spec(resize(8, 8), decoder="nvjpeg"))

    assert why.startswith("nvJPEG cannot be used: CUDA")


@pytest.mark.usefixtures("on_the_cpu")
def test_the_pixels_come_back_as_they_were_decoded() -> None:
    with Image.open(PHOTO) as image:
        expected = np.asarray(image.convert("RGB"))

    pixels = nvjpeg.decode(PHOTO.read_bytes(), (expected.shape[1], expected.shape[0]))

    assert np.array_equal(pixels, expected)


@pytest.mark.usefixtures("on_the_cpu")
def test_preprocessing_uses_them() -> None:
    with_it = spec(resize(64, 64), decoder="nvjpeg")
    data = PHOTO.read_bytes()

    pixels = preprocess(data, with_it, 10**7)

    assert np.array_equal(pixels, preprocess(data, spec(resize(64, 64)), 10**7))


@pytest.mark.usefixtures("on_the_cpu")
def test_what_it_does_not_decode_is_undecodable() -> None:
    data = PHOTO.read_bytes()
    without_scans = data[: data.rindex(b"\xff\xda")] + data[-2:]

    with pytest.raises(UndecodableImage):
        nvjpeg.decode(without_scans, (640, 427))
