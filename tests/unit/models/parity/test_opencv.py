"""OpenCV and albumentations themselves, against the spec that states them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.unit.imaging.pictures import noise
from tests.unit.models.importers.test_probe_tensors import letterbox
from tidegate.models.importers.probe_tensors import preprocessing
from tidegate.models.parity.preprocessing import prove
from tidegate.models.probes.probe_set import probe_set
from tidegate.service.imaging.cv2_resize import resize

pytestmark = [
    pytest.mark.torch,
    # Pillow warns of a palette with transparency, as in any loader.
    pytest.mark.filterwarnings("ignore:Palette images with Transparency"),
]
sides = st.integers(1, 300)


@settings(max_examples=400)
@given(sides, sides, sides, sides, st.sampled_from(("nearest", "linear", "area")))
def test_every_resize_equals_opencv_s(
    width: int, height: int, new_width: int, new_height: int, name: str
) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.asarray(noise(width, height))
    size = new_width, new_height

    expected = cv2.resize(pixels, size, interpolation=getattr(cv2, f"INTER_{name.upper()}"))

    filter = "bilinear" if name == "linear" else name
    assert np.array_equal(resize(pixels, size, filter, (0, 0, *size)), expected)  # type: ignore[arg-type]  # a Literal


@pytest.mark.parametrize("name", ["linear", "area"])
def test_a_letterbox_of_albumentations_is_proved(name: str, tmp_path: Path) -> None:
    cv2, a = pytest.importorskip("cv2"), pytest.importorskip("albumentations")
    side = 64
    chain = a.Compose(
        [
            a.LongestMaxSize(side, interpolation=getattr(cv2, f"INTER_{name.upper()}")),
            a.PadIfNeeded(side, side, border_mode=cv2.BORDER_CONSTANT, fill=(114, 114, 114)),
            a.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        ]
    )
    np.savez(tmp_path / "tensors.npz", **_made(chain, tmp_path))
    filter = "bilinear" if name == "linear" else name
    keep = {"op": "resize-keep-ratio", "height": side, "width": side, "fit": "inside"}
    keep |= {"factor": "product", "rounding": "round", "filter": filter, "backend": "cv2"}
    pad: dict[str, Any] = {"op": "pad", "height": side, "width": side, "offset": "floor"}

    spec = letterbox(steps=(keep, pad | {"colour": (114, 114, 114)}))

    parity = prove(*preprocessing(tmp_path / "tensors.npz", spec))
    assert parity.exact
    assert parity.backend == "cv2"


def _made(chain: Any, folder: Path) -> dict[str, Any]:
    made = {}
    for name, file in probe_set().items():
        path = folder / name
        path.write_bytes(file)
        with Image.open(path) as opened:
            image = np.asarray(opened.convert("RGB"))
        made[name] = chain(image=image)["image"].astype(np.float32).transpose(2, 0, 1)
    return made
