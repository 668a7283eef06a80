"""A reference classification of an image: Pillow, NumPy, ONNX Runtime and the bundle's manifest.

It shares no code with the service. It runs in a separate process, because a hostile image can
exhaust its memory or crash it.
"""

import io
import json
import os
import resource
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageOps

PROBABILITY_TOLERANCE = 2e-3
SCORE_TOLERANCE = 1e-2
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_MEMORY_BYTES = 8 << 30  # limit of address space; above it nothing is compared
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_READER: "Reader | None" = None  # of this process


class Reader:
    """The bundle's preprocessing, model and temperature."""

    def __init__(self, bundle: Path) -> None:
        """Load the bundle; raises ValueError for a preprocessing that is not supported here."""
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self._spec: dict[str, Any] = manifest["preprocess"]
        self._scores: list[str] = manifest["gate"]["scores"]
        self._temperature = float(manifest["calibration"]["temperature"])
        self._crop, self._resize = _steps(self._spec)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def pixels(self, data: bytes) -> NDArray[np.uint8]:
        """Return [H, W, 3]; raises Pillow's exceptions for bytes that are not a complete image."""
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            rgb = _rgb(_upright(image))
        side = max(1, self._crop["numerator"] * min(rgb.size) // self._crop["denominator"])
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        size = (self._resize["width"], self._resize["height"])
        cut = rgb.crop((left, top, left + side, top + side))
        return np.asarray(cut.resize(size, _FILTERS[self._resize["filter"]]))

    def differs(self, data: bytes, body: bytes) -> str:
        """Describe the difference of an answer from the reference; empty if there is none."""
        try:
            pixels = self.pixels(data)
        except MemoryError:
            return ""
        except Exception as error:  # noqa: BLE001 - codecs raise anything
            return f"accepted, but Pillow rejects it: {type(error).__name__}: {error}"
        logits, scores = self._session.run(["logits", "scores"], {"pixels": pixels[None]})
        here = dict(zip(self._scores, scores[0], strict=True))
        answer = json.loads(body)
        ood = answer["ood"]
        answered = {name: ood[name]["score"] for name in ("energy", "mahalanobis")}
        answered |= {item["name"]: item["score"] for item in ood["decided_by"]}
        for name, score in answered.items():
            if abs(score - here[name]) > SCORE_TOLERANCE * max(1.0, abs(here[name])):
                return f"{name} {score:.4f}, here {here[name]:.4f}"
        return _different(answer.get("predictions", ()), logits[0] / self._temperature)


def open_bundle(bundle: Path) -> None:
    """Prepare this process and limit its memory."""
    global _READER
    os.nice(5)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff prints warnings about mutants
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None
    _READER = Reader(bundle)


def differs(data: bytes, body: bytes) -> str:
    """Call `Reader.differs` in the process that `open_bundle` prepared."""
    if _READER is None:
        raise RuntimeError("open_bundle has not been called in this process")
    return _READER.differs(data, body)


def _steps(spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [step["op"] for step in spec["steps"]]
    if names != ["centre-crop-fraction", "resize"] or spec["alpha"] != "composite-white":
        raise ValueError(
            f"the reference supports only the demo bundle's preprocessing, not {names}"
        )
    crop, resize = spec["steps"]
    return crop, resize


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation of a loaded image; unchanged if its metadata cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - parsers of metadata raise anything
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has no agreed range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _different(predictions: list[dict[str, Any]], logits: NDArray[np.float32]) -> str:
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    for prediction in predictions:
        here = float(probabilities[prediction["class_id"]])
        if abs(prediction["probability"] - here) > PROBABILITY_TOLERANCE:
            return (
                f"class {prediction['class_id']} {prediction['probability']:.4f}, here {here:.4f}"
            )
    if predictions and probabilities.max() - predictions[0]["probability"] > PROBABILITY_TOLERANCE:
        return f"the best is {predictions[0]['probability']:.4f}, here {probabilities.max():.4f}"
    return ""
