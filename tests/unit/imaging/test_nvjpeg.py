"""A spec says which decoder a colour JPEG gets. nvImageCodec is a fake here: there is no GPU."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.unit.imaging.pictures import resize, spec
from tidegate.service.errors import EngineFailed, UndecodableImage
from tidegate.service.imaging import nvjpeg
from tidegate.service.imaging.preprocess import preprocess

ON_GPU = spec(resize(24, 32), decoder="nvjpeg", exif_orientation="apply")
ON_CPU = ON_GPU.model_copy(update={"decoder": "pillow"})


class FakeCodec(SimpleNamespace):
    """Decodes with Pillow, and inverts the pixels, so that one sees who decoded."""

    BackendKind = SimpleNamespace(HYBRID_CPU_GPU="hybrid")
    ColorSpec = SimpleNamespace(SRGB="srgb")
    SampleFormat = SimpleNamespace(I_RGB="rgb")
    CodeStream = staticmethod(io.BytesIO)
    Backend = staticmethod(lambda kind: kind)
    DecodeParams = staticmethod(lambda **parameters: parameters)

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[dict[str, Any]] = []
        self.params: list[Any] = []
        self.answer: Any = "pixels"

    def Decoder(self, **options: Any) -> FakeCodec:
        self.opened.append(options)
        if self.answer == "no GPU":
            raise RuntimeError("CUDA Runtime failure: '#35'")
        return self

    def decode(self, source: io.BytesIO, *, params: Any) -> Any:
        self.params.append(params)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is None:
            return None
        pixels = 255 - np.asarray(Image.open(source).convert("RGB"))
        return SimpleNamespace(cpu=lambda: pixels[: None if self.answer == "pixels" else -1])


def forget() -> None:
    nvjpeg._codec.cache_clear()
    nvjpeg._parameters.cache_clear()
    nvjpeg._decoders.one = None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCodec]:
    made = FakeCodec()
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", made)
    forget()
    yield made
    forget()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    forget()
    yield
    forget()


def encoded(mode: str = "RGB", form: str = "JPEG", orientation: int = 1) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, exif=exif)
    return file.getvalue()


def inverted(data: bytes) -> NDArray[np.uint8]:
    return 255 - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_bundle_of_libjpeg_turbo_never_uses_it(fake: FakeCodec) -> None:
    data = encoded()

    pixels = preprocess(data, ON_CPU, 10**6)

    assert np.array_equal(pixels, 255 - inverted(data))
    assert fake.opened == []


def test_a_bundle_that_was_sealed_with_it_gets_its_pixels(fake: FakeCodec) -> None:
    data = encoded()

    assert np.array_equal(preprocess(data, ON_GPU, 10**6), inverted(data))


def test_the_backend_and_the_upsampling_are_fixed(fake: FakeCodec) -> None:
    for _ in range(2):
        preprocess(encoded(), ON_GPU, 10**6)

    (options,) = fake.opened
    assert options == {
        "max_num_cpu_threads": 1,
        "backends": ["hybrid"],
        "options": ":fancy_upsampling=1",
    }
    assert fake.params[0] == {
        "apply_exif_orientation": False,
        "color_spec": "srgb",
        "sample_format": "rgb",
    }


def test_the_orientation_is_applied_once(fake: FakeCodec) -> None:
    turned = preprocess(encoded(orientation=3), ON_GPU, 10**6)

    assert np.array_equal(turned, inverted(encoded())[::-1, ::-1])


@pytest.mark.parametrize(("mode", "form"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG")])
def test_everything_but_colour_jpegs_is_pillow_s(fake: FakeCodec, mode: str, form: str) -> None:
    data = encoded(mode, form)

    assert np.array_equal(preprocess(data, ON_GPU, 10**6), preprocess(data, ON_CPU, 10**6))
    assert fake.opened == []


@pytest.mark.parametrize("answer", [None, "a row less"])
def test_an_image_that_it_does_not_decode_is_refused(fake: FakeCodec, answer: Any) -> None:
    fake.answer = answer

    with pytest.raises(UndecodableImage):
        preprocess(encoded(), ON_GPU, 10**6)


def test_a_gpu_that_fails_is_not_the_image_s_fault(fake: FakeCodec) -> None:
    fake.answer = RuntimeError("CUDA error 700 in nvjpeg.cpp:12")

    with pytest.raises(EngineFailed, match="GPU could not decode") as failed:
        preprocess(encoded(), ON_GPU, 10**6)

    assert "nvjpeg.cpp" not in str(failed.value)


def test_a_file_without_its_end_is_refused_before_it_is_decoded(fake: FakeCodec) -> None:
    data = encoded()

    with pytest.raises(UndecodableImage, match="truncated"):
        preprocess(data[: len(data) // 2], ON_GPU, 10**6)

    assert fake.params == []


def test_it_says_what_is_missing(without: None) -> None:
    assert nvjpeg.why_unavailable(ON_CPU) == ""
    assert "install tidegate[nvjpeg]" in nvjpeg.why_unavailable(ON_GPU)


def test_without_a_gpu_it_says_so(fake: FakeCodec) -> None:
    assert nvjpeg.why_unavailable(ON_GPU) == ""
    forget()
    fake.answer = "no GPU"

    assert nvjpeg.why_unavailable(ON_GPU) == "nvJPEG cannot be used: CUDA Runtime failure: '#35'"
