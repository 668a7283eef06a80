"""Load the image encoder of a folder that transformers saved, without a last layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.huggingface_weights import load_weights
from tidegate.models.importers.torch_runtime import require

# model_type → the class that is its image encoder, and the output that has the features; of others
# AutoModel's pooled output, such as DINOv2's class token
_CLIP = ("CLIPVisionModelWithProjection", "image_embeds")
_SIGLIP = ("SiglipVisionModel", "pooler_output")
_PARTS: Mapping[str, tuple[str, str]] = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
}


def load(folder: Path, model_type: str) -> tuple[Any, str]:
    """Return the encoder as a module, [batch, 3, H, W] → [batch, D], and its name.

    Raises BuildRefused if the folder lacks weights of it, or if it has no pooled output.
    """
    kind, output = _PARTS.get(model_type, ("AutoModel", "pooler_output"))
    model = load_weights(folder, kind, "an encoder")
    return _pooled(model.eval(), output), type(model).__name__


def width(encoder: Any, size: tuple[int, int]) -> int:
    """Return D. Raises BuildRefused if the encoder does not return [batch, D]."""
    torch = require("torch")
    name = type(encoder.model).__name__
    try:
        with torch.inference_mode():
            features = encoder(torch.zeros(1, 3, *size))
    except Exception as error:  # a network's own checks raise anything
        raise BuildRefused(
            f"{name} does not run on images of {size[0]} × {size[1]}: {error}."
        ) from error
    if features is None:
        raise BuildRefused(f"{name} has no pooled output that could be its features.")
    return int(features.shape[1])


def _pooled(model: Any, output: str) -> Any:
    torch = require("torch")

    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is imported late
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input: Any) -> Any:
            found = getattr(self.model(pixel_values=input), output, None)
            return found if found is None else found.flatten(1)

    return Encoder()
