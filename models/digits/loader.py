"""How the digit network's training reads an image: Pillow for the pixels, torch for the floats."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tidegate.models.digits.archives import SIDE
from tidegate.models.importers.torch_runtime import require, version
from tidegate.service.imaging.spec import PreprocessSpec, Resize

# The digits' own over the 60,000 of which these are some, as is customary for them.
MEAN, STD = 0.1307, 0.3081

SPEC = PreprocessSpec(
    exif_orientation="apply",  # photographs of digits come from phones
    alpha="composite-black",  # the digits are bright on black: what is not painted is ground
    sixteen_bit="scale",
    steps=(Resize(height=SIDE, width=SIDE, filter="bilinear"),),  # a digit stays as it is
    channel_order="rgb",
    scale=1 / 255,
    mean=(MEAN, MEAN, MEAN),
    std=(STD, STD, STD),
)


class Loader:
    """The training's own loader, a `SourceTransform`: SPEC is held to it, not made from it."""

    backend: Literal["pillow"] = "pillow"

    @property
    def library(self) -> str:
        """Return torch and its version."""
        return version("torch")

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Return an image file as uint8 [28, 28, 3], upright, on black; raises what Pillow does."""
        with Image.open(io.BytesIO(file)) as opened:
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):  # Pillow would clip it at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.new("RGBA", layer.size, "black")
            image.alpha_composite(layer)
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        return np.array(resized)

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return what the network is given, float32 [3, 28, 28]."""
        torch = require("torch")
        levels = torch.from_numpy(self.pixels(file)).permute(2, 0, 1).float()
        result: NDArray[np.float32] = levels.div(255).sub(MEAN).div(STD).numpy()
        return result
