"""Import a classifier from a folder that transformers saved: config, preprocessor, weights."""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers import huggingface_encoder, huggingface_rules
from tidegate.models.importers.base import Backend, Imported
from tidegate.models.importers.huggingface_rules import Translation
from tidegate.models.importers.huggingface_weights import load_weights
from tidegate.models.importers.torch_export import export, forward, with_stand_in
from tidegate.models.importers.torch_runtime import require, version
from tidegate.service.files import sha256_of

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("*.safetensors", "*.bin")
_BACKENDS = {"pillow": "pil", "torch": "torchvision"}  # transformers' names
_ARITHMETIC = ("do_rescale", "do_normalize", "include_top")  # the steps after resize and crop
_UNNAMED = re.compile(r"LABEL_\d+")
_LICENCE = re.compile(r"\A---\n(?:.*\n)*?license:[ ]*(\S+)\n(?:.*\n)*?---\n")


@dataclass(frozen=True)
class Processed:
    """A `SourceTransform`: transformers' own image processor and image loader."""

    library: str
    backend: Backend
    processor: Any

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Load a file with `load_image`; return uint8 [H, W, 3] after resize and crop.

        The channels are in the network's order.
        """
        known = self.processor.valid_kwargs.__annotations__
        off = {name: False for name in _ARITHMETIC if name in known}
        return self._process(file, **off).transpose(1, 2, 0)

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return the network's input, float32 [3, H, W]."""
        return self._process(file)

    def _process(self, file: bytes, **off: bool) -> NDArray[Any]:
        image = require("transformers.image_utils").load_image(Image.open(io.BytesIO(file)))
        return np.asarray(self.processor(image, return_tensors="pt", **off)["pixel_values"][0])


def load(folder: Path, *, backend: str | None = None, encoder: bool = False) -> Imported:
    """Import the classifier in `folder`; nothing is downloaded and no code in the folder is run.

    As an `encoder`, whose features alone are wanted, it may be any model with a pooled output, such
    as DINOv2, CLIP or SigLIP; two random classes stand in for its last layer.

    `backend`, "pillow" or "torch", is required if preprocessor_config.json does not state which
    one was used in training. Raises BuildRefused if the folder is incomplete or ambiguous.
    """
    config = _json(folder / _CONFIG)
    if "model_type" not in config or config["model_type"] == "timm_wrapper":
        raise BuildRefused(
            f"{folder / _CONFIG} has no transformers model_type. Import a timm folder as "
            f"timm:local-dir:{folder}."
        )
    if "auto_map" in config:
        raise BuildRefused(f"{folder / _CONFIG} needs custom code (auto_map), which is not run.")
    translation = huggingface_rules.translate(_json(folder / _PREPROCESSOR), backend)
    digest = _digest(folder)
    _hush()
    transform = _transform(folder, translation)
    size = translation.spec.output_size
    if encoder:
        pooled, name = huggingface_encoder.load(folder, str(config["model_type"]))
        model = with_stand_in(pooled, huggingface_encoder.width(pooled, size))
    else:
        model = load_weights(folder, "AutoModelForImageClassification", "a classifier")
        name = type(model).__name__
    found = to_backbone(export(model, size))
    return Imported(
        backbone=found.model,
        spec=translation.spec,
        transform=transform,
        forward=forward(model),
        source=f"{version('transformers')} {name}",
        licence=_licence(folder),
        checkpoint_sha256=digest,
        labels=None if encoder else _labels(model.config.id2label),
        notes=found.notes,
    )


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise BuildRefused(
            f"{file} does not exist: the folder needs {_CONFIG} and {_PREPROCESSOR}."
        )
    try:
        content = json.loads(file.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BuildRefused(f"{file} is not JSON: {error}.") from error
    return content if isinstance(content, dict) else {}


def _digest(folder: Path) -> str:
    """Return the sha256 of the weights; for several files, of a list of their digests."""
    for pattern in _WEIGHTS:
        digests = [(path.name, sha256_of(path)) for path in sorted(folder.glob(pattern))]
        if len(digests) == 1:
            return digests[0][1]
        if digests:
            listed = "".join(f"{digest}  {name}\n" for name, digest in digests)
            return hashlib.sha256(listed.encode()).hexdigest()
    raise BuildRefused(f"{folder} has no weights ({' or '.join(_WEIGHTS)}).")


def _hush() -> None:
    logging = require("transformers.utils.logging")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _transform(folder: Path, translation: Translation) -> Processed:
    wanted = _BACKENDS[translation.backend]
    processor = require("transformers").AutoImageProcessor.from_pretrained(
        folder, backend=wanted, local_files_only=True, trust_remote_code=False
    )
    if processor.backend != wanted:
        raise BuildRefused(
            f"transformers has no {wanted} backend for {type(processor).__name__}: use the other "
            "one with --backend."
        )
    return Processed(version("transformers"), translation.backend, processor)


def _labels(id2label: dict[int, str]) -> tuple[str, ...] | None:
    """Return the labels in the order of their ids, or None if they are only numbers."""
    labels = tuple(str(id2label[index]) for index in range(len(id2label)) if index in id2label)
    if len(labels) != len(id2label) or all(_UNNAMED.fullmatch(label) for label in labels):
        return None
    return labels


def _licence(folder: Path) -> str:
    """Return the licence in the folder's model card, or "unstated"."""
    card = folder / "README.md"
    found = _LICENCE.match(card.read_text()) if card.is_file() else None
    return found[1] if found else "unstated"
