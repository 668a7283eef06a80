"""The image loader of the digit network's training: Pillow for pixels, torch for floats."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tidegate.models.digits.archives import SIDE
from tidegate.models.importers.torch_runtime import require, version
from tidegate.service.imaging.spec import PreprocessSpec, Resize

# Mean and std over MNIST's 60,000 training digits, the customary values.
MEAN, STD = 0.1307, 0.3081

SPEC = PreprocessSpec(
    exif_orientation="apply",  # photographs of digits come from phones
    alpha="composite-black",  # the digits are bright on black
    sixteen_bit="scale",
    steps=(
        Resize(height=SIDE, width=SIDE, filter="bilinear"),
    ),  # leaves a digit of 28 × 28 unchanged
    channel_order="rgb",
    scale=1 / 255,
    mean=(MEAN, MEAN, MEAN),
    std=(STD, STD, STD),
)


class Loader:
    """A `SourceTransform`: the training's own loader, written independently of SPEC."""

    backend: Literal["pillow"] = "pillow"

    @property
    def library(self) -> str:
        """Return torch and its version."""
        return version("torch")

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Return an image file as uint8 [28, 28, 3], upright, on black. Raises Pillow's errors."""
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
        """Return the network's input, float32 [3, 28, 28]."""
        torch = require("torch")
        levels = torch.from_numpy(self.pixels(file)).permute(2, 0, 1).float()
        result: NDArray[np.float32] = levels.div(255).sub(MEAN).div(STD).numpy()
        return result
