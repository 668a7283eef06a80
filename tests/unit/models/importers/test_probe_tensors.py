"""The tensors of a team's own data loader prove a stated preprocessing, or show that it differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.probe_tensors import preprocessing
from tidegate.models.parity.preprocessing import prove
from tidegate.models.probes.probe_set import probe_set
from tidegate.service.cli import main
from tidegate.service.imaging.spec import PreprocessSpec

SIDE = 24
MEAN, STD = np.array([0.5, 0.4, 0.3], np.float32), np.array([0.2, 0.3, 0.4], np.float32)


def letterbox(**changes: Any) -> PreprocessSpec:
    """State what `loaded` does."""
    keep = {"op": "resize-keep-ratio", "height": SIDE, "width": SIDE, "fit": "inside"}
    keep |= {"factor": "product", "rounding": "round", "filter": "bilinear"}
    pad = {"op": "pad", "height": SIDE, "width": SIDE, "colour": (114, 114, 114), "offset": "floor"}
    fields: dict[str, Any] = {
        "exif_orientation": "ignore",
        "alpha": "drop",
        "sixteen_bit": "clip",
        "steps": (keep, pad),
        "channel_order": "rgb",
        "scale": 1 / 255,
        "mean": MEAN.tolist(),
        "std": STD.tolist(),
    }
    return PreprocessSpec.model_validate(fields | changes)


def loaded(path: Path) -> NDArray[np.float32]:
    """A data loader as teams write it: letterboxed, normalised, float32 [3, H, W]."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    ratio = min(SIDE / image.height, SIDE / image.width)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (SIDE, SIDE), (114, 114, 114))
    canvas.paste(image, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    floats = np.asarray(canvas, np.float32) / np.float32(255)
    return np.asarray((floats - MEAN) / STD, np.float32).transpose(2, 0, 1)


# Pillow warns of a palette with transparency, as in any loader.
pytestmark = [
    pytest.mark.lengthy,
    pytest.mark.filterwarnings("ignore:Palette images with Transparency"),
]
KEEP, PAD = letterbox().steps
BLACK = (KEEP, PAD.model_copy(update={"colour": (0, 0, 0)}))


def save(path: Path, tensors: dict[str, Any]) -> None:
    np.savez(path, **tensors)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probes") / "new"
    assert main(["probe-images", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def tensors(images: Path) -> Path:
    made = {path.name: loaded(path) for path in sorted(images.iterdir())}
    save(images.parent / "tensors.npz", made)
    return images.parent / "tensors.npz"


def test_the_command_writes_the_probes(images: Path) -> None:
    assert {path.name: path.read_bytes() for path in images.iterdir()} == probe_set()


def test_a_stated_letterbox_is_proved(tensors: Path) -> None:
    parity = prove(*preprocessing(tensors, letterbox()))

    assert parity.exact
    assert parity.differing_values == 0
    assert parity.probes > 200
    assert parity.library.startswith("the team's own data loader (tensors.npz")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channel_order": "bgr"}, "pixels differ|floats differ"),
        ({"mean": (0.5, 0.5, 0.5)}, "differ"),
        ({"exif_orientation": "apply"}, "EXIF orientation"),
        ({"steps": BLACK}, "pixels differ"),
    ],
)
def test_a_wrong_statement_is_refused(tensors: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BuildRefused, match=reason):
        prove(*preprocessing(tensors, letterbox(**changes)))


def test_a_tensor_of_one_channel_proves_a_grey_image(images: Path, tmp_path: Path) -> None:
    grey = {"op": "grey", "backend": "pillow"}
    resize = {"op": "resize", "height": 9, "width": 7, "filter": "bilinear"}
    made = {}
    for path in images.iterdir():
        with Image.open(path) as opened:
            image = opened.convert("RGB").convert("L").resize((7, 9), Image.Resampling.BILINEAR)
        made[path.name] = np.asarray(image, np.float32)[None, None] / 255
    save(tmp_path / "grey.npz", made)
    spec = letterbox(steps=(grey, resize), mean=(0, 0, 0), std=(1, 1, 1))

    assert prove(*preprocessing(tmp_path / "grey.npz", spec)).exact


def test_a_file_without_the_probes_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", image=np.zeros((3, 4, 4), np.float32))
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "empty.npz").touch()

    for name, reason in (
        ("other.npz", "tidegate probe-images"),
        ("text.npz", "cannot be read"),
        ("missing.npz", "cannot be read"),
        ("empty.npz", "cannot be read"),
        ("one.npy", "numpy.savez"),
    ):
        with pytest.raises(BuildRefused, match=reason):
            preprocessing(tmp_path / name, letterbox())


def test_tensors_of_another_form_are_named(tensors: Path, tmp_path: Path) -> None:
    with np.load(tensors) as found:
        save(tmp_path / "turned.npz", {name: found[name].transpose(1, 2, 0) for name in found})

    with pytest.raises(
        BuildRefused, match=r"the tensor is \[24, 24, 3\], not \[3, height, width\]"
    ):
        prove(*preprocessing(tmp_path / "turned.npz", letterbox()))


def test_tensors_that_are_mostly_missing_prove_nothing(tmp_path: Path) -> None:
    name, file = next(iter(probe_set().items()))
    (tmp_path / name).write_bytes(file)
    save(tmp_path / "one.npz", {name: loaded(tmp_path / name)})
    with pytest.raises(BuildRefused, match="could not preprocess"):
        prove(*preprocessing(tmp_path / "one.npz", letterbox()))
