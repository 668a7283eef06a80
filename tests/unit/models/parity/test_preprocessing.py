"""Preprocessing is proved against its source, and a slightly wrong spec is rejected."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.unit.models import tiny
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import (
    from_huggingface,
    from_timm,
    huggingface_rules,
    torchvision_transforms,
)
from tidegate.models.importers.base import Backend, Preprocessing
from tidegate.models.importers.torch_runtime import require
from tidegate.models.parity.preprocessing import golden_probes, normalised, prove
from tidegate.models.probes.probe_set import probe_set, probes_digest
from tidegate.models.sealing.seal import without_gate
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import CentreCrop, PreprocessSpec, ResizeShortestEdge
from tidegate.service.types import Pixels

pytestmark = pytest.mark.lengthy

EDGE = ResizeShortestEdge(size=32, rounding="truncate", filter="bilinear")
SPEC = PreprocessSpec(
    exif_orientation="ignore",
    alpha="drop",
    sixteen_bit="clip",
    steps=(EDGE, CentreCrop(height=28, width=28, offset="half-even")),
    channel_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@dataclass(frozen=True)
class Written:
    """The rules of `SPEC` implemented again, as a separate library would."""

    library: str = "written 1.0"
    backend: Backend = "pillow"

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(file)).convert("RGB")
        width, height = image.size
        long = int(32 * max(image.size) / min(image.size))
        size = (32, long) if width <= height else (long, 32)
        left, upper = (round((side - 28) / 2) for side in size)
        resized = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(resized.crop((left, upper, left + 28, upper + 28)))

    def floats(self, file: bytes) -> NDArray[np.float32]:
        scaled = self.pixels(file).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        mean = np.array(SPEC.mean, np.float32).reshape(3, 1, 1)
        std = np.array(SPEC.std, np.float32).reshape(3, 1, 1)
        return np.asarray((scaled - mean) / std)


class Broken(Written):
    """A library that reads no file."""

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        raise OSError("no codec")


@pytest.fixture(scope="module")
def probes() -> dict[str, bytes]:
    """Every fifth probe, and those that detect the wrong specs below."""
    files = probe_set()
    wanted = ("exif-6.jpeg", "mode-p-transparent-61x47.png", "grey-16-whole-61x47.png")
    names = [*list(files)[::5], *wanted, "grey-32.tiff"]
    return {name: files[name] for name in dict.fromkeys(names)}


def test_equal_rules_are_proved_exact(probes: Mapping[str, bytes]) -> None:
    parity = prove(SPEC, Written(), probes=probes)

    assert parity.exact
    assert (parity.differing_values, parity.largest_level_difference) == (0, 0)
    assert 0 < parity.largest_float_difference <= 1e-6
    assert (parity.library, parity.probes) == ("written 1.0", len(probes))
    assert parity.probe_set == probes_digest(probes)
    assert parity.compared_values == (len(probes) - len(parity.refused_probes)) * 28 * 28 * 3


def test_images_that_the_service_refuses_are_named(probes: Mapping[str, bytes]) -> None:
    assert "grey-32.tiff" in prove(SPEC, Written(), probes=probes).refused_probes


def changed(**fields: Any) -> PreprocessSpec:
    return PreprocessSpec.model_validate(SPEC.model_dump() | fields)


def step(number: int, **fields: Any) -> PreprocessSpec:
    steps = [one.model_dump() for one in SPEC.steps]
    steps[number] |= fields
    return changed(steps=tuple(steps))


WRONG = {
    "bicubic for bilinear": (step(0, filter="bicubic"), "pixels differ"),
    "rounding for truncation": (step(0, rounding="round"), "pixels differ"),
    "another crop offset": (step(1, offset="ceil"), "pixels differ"),
    "another backend": (step(0, backend="torch"), r"backend \(the library's is pillow\)"),
    "EXIF applied": (changed(exif_orientation="apply"), "EXIF orientation"),
    "alpha on white": (changed(alpha="composite-white"), "the alpha rule"),
    "16 bits scaled": (changed(sixteen_bit="scale"), "the 16-bit rule"),
    "blue first": (changed(channel_order="bgr"), "channel order"),
    "a mean off": (changed(mean=(0.486, 0.456, 0.406)), "check scale, mean, std"),
    "a std off": (changed(std=(0.229, 0.224, 0.226)), "check scale, mean, std"),
}


@pytest.mark.parametrize(("spec", "said"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_rule_is_rejected_with_the_rule_to_check(
    probes: Mapping[str, bytes], spec: PreprocessSpec, said: str
) -> None:
    with pytest.raises(BuildRefused, match=said):
        prove(spec, Written(), probes=probes)


def test_a_wrong_size_is_refused(probes: Mapping[str, bytes]) -> None:
    with pytest.raises(BuildRefused, match="sizes of resize and crop"):
        prove(step(1, height=27), Written(), probes=probes, allow_difference=True)


def test_an_admitted_difference_is_measured(probes: Mapping[str, bytes]) -> None:
    wrong = step(0, filter="bicubic")

    parity = prove(wrong, Written(), probes=probes, allow_difference=True)

    gaps = [
        np.abs(preprocess(file, wrong, 10**8).astype(int) - Written().pixels(file))
        for name, file in probes.items()
        if name not in parity.refused_probes
    ]
    assert not parity.exact
    assert parity.differing_values == sum(np.count_nonzero(gap) for gap in gaps)
    assert parity.largest_level_difference == max(gap.max() for gap in gaps)
    assert parity.largest_float_difference > 0.01


def test_a_library_that_cannot_read_the_probes_is_rejected(probes: Mapping[str, bytes]) -> None:
    with pytest.raises(BuildRefused, match=r"cannot be proved.*no codec"):
        prove(SPEC, Broken(), probes=probes, allow_difference=True)


def test_floats_are_compared_at_levels_that_no_probe_has() -> None:
    black = io.BytesIO()
    Image.new("RGB", (40, 40)).save(black, "PNG")

    with pytest.raises(BuildRefused, match=r"floats differ.*up to 1"):
        prove(SPEC, Clipping(), probes={"black.png": black.getvalue()})


class Clipping(Written):
    """A library that differs only at the brightest level."""

    def floats(self, file: bytes) -> NDArray[np.float32]:
        floats = super().floats(file)
        return np.where(self.pixels(file).transpose(2, 0, 1) == 255, floats + 1, floats)


def test_normalised_is_what_the_sealed_graph_computes_for_every_level() -> None:
    rng = np.random.default_rng(0)
    levels = np.arange(256, dtype=np.uint8)
    height, width = tiny.SPEC.output_size
    graph = _Entry(without_gate(tiny.backbone(tiny.numbers()), tiny.SPEC))

    columns = [rng.permutation(levels) for _ in range(3)]
    images = np.stack(columns, axis=1).reshape(-1, height, width, 3)

    for pixels in images:
        assert np.array_equal(normalised(Pixels(pixels), tiny.SPEC), graph(pixels))


class _Entry:
    """Runs a sealed graph up to the input of its backbone."""

    def __init__(self, graph: bytes) -> None:

        model = onnx.load_from_string(graph)
        onnx_input = model.graph.node[3].output[0]
        value = onnx.helper.make_tensor_value_info(onnx_input, onnx.TensorProto.FLOAT, None)
        model.graph.output.append(value)
        self._name = onnx_input
        self._session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        (floats,) = self._session.run([self._name], {"pixels": pixels[None]})
        return np.asarray(floats[0])


def test_the_golden_probes_are_few_small_and_all_accepted() -> None:
    files = golden_probes(SPEC)

    assert 8 <= len(files) <= 14
    assert all(name.startswith("golden/") for name in files)
    assert sum(map(len, files.values())) < 200_000
    for file in files.values():
        assert preprocess(file, SPEC, 10**8).shape == (28, 28, 3)


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BICUBIC = 3  # Pillow's number, as in Hugging Face's files


@pytest.mark.torch
class TestTheWholeProbeSet:
    """Each library's own code on every probe: no value differs, and floats are within 1e-6."""

    @pytest.mark.parametrize("size", [232, 256])
    def test_torchvision_on_images_is_proved_exact(self, size: int) -> None:
        t = require("torchvision.transforms")

        parity = prove(
            *of_torchvision(
                [t.Resize(size), t.CenterCrop(224), t.ToTensor(), t.Normalize(MEAN, STD)]
            )
        )

        assert parity.exact
        assert parity.backend == "pillow"

    @pytest.mark.parametrize("size", [232, 256])
    @pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
    def test_torchvision_on_tensors_is_proved_exact(self, size: int, filter: str) -> None:
        v2, float32 = require("torchvision.transforms.v2"), require("torch").float32
        mode = require("torchvision.transforms").InterpolationMode(filter)

        parity = prove(
            *of_torchvision(
                [
                    v2.ToImage(),
                    v2.Resize(size, interpolation=mode, antialias=True),
                    v2.CenterCrop(224),
                    v2.ToDtype(float32, scale=True),
                    v2.Normalize(MEAN, STD),
                ]
            )
        )

        assert parity.exact
        assert parity.backend == "torch"

    @pytest.mark.parametrize("mode", ["center", "squash", "border"])
    @pytest.mark.parametrize("size", [(224, 224), (160, 256)])
    @pytest.mark.parametrize("filter", ["bicubic", "lanczos"])
    def test_timm_is_proved_exact(self, mode: str, size: tuple[int, int], filter: str) -> None:
        config = {"input_size": (3, *size), "interpolation": filter, "crop_pct": 0.9}
        config |= {"crop_mode": mode, "mean": MEAN, "std": STD}

        parity = prove(*from_timm._default(config))

        assert parity.exact

    @pytest.mark.parametrize("backend", ["pillow", "torch"])
    @pytest.mark.parametrize("processor", ["ViTImageProcessor", "ConvNextImageProcessor"])
    def test_hugging_face_is_proved_exact(
        self, processor: str, backend: str, tmp_path: Path
    ) -> None:
        size = {"height": 224, "width": 224} if "ViT" in processor else {"shortest_edge": 224}
        config = {
            **{"image_processor_type": processor, "size": size, "resample": BICUBIC},
            **{"do_resize": True, "do_rescale": True, "do_normalize": True},
            **{"rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        }
        if "ConvNext" in processor:
            config["crop_pct"] = 0.875
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        translation = huggingface_rules.translate(config, backend)

        parity = prove(translation.spec, from_huggingface._transform(tmp_path, translation))

        assert parity.exact
        assert parity.backend == backend


def of_torchvision(chain: list[Any]) -> Preprocessing:
    """Import this chain and return the result."""
    return torchvision_transforms.translate(require("torchvision.transforms").Compose(chain), None)
