"""A small sealed bundle for tests, and helpers to seal an invalid one."""

from __future__ import annotations

import functools
import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.contract import tiny_graph
from tidegate.service.bundle.golden import pixels_digest
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import CALIBRATION, CARD, GOLDEN, LABELS, MANIFEST, MODEL
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.imaging.preprocess import preprocess

FOLD = 199
PROBES = ("golden/grey.png", "golden/colours.jpg", "golden/odd.bmp")
Files = dict[str, bytes]
Change = Callable[[dict[str, Any]], None]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def folds() -> dict[str, NDArray[np.float64]]:
    """Return valid calibration scores."""
    scores = np.linspace(-5.0, 5.0, FOLD)
    combined = np.sort(-np.log((np.arange(FOLD) + 0.5) / FOLD))
    return {"scores_a": np.stack([scores, scores + 6.0]), "combined_b": combined}


@functools.cache
def _sound() -> tuple[tuple[str, bytes], ...]:
    photos = {name: _photo(index, name) for index, name in enumerate(PROBES)}
    model = tiny_graph.sealed()
    return tuple(
        {
            MODEL: model,
            LABELS: b"cat\ndog\ncat\ntree frog\n",
            CALIBRATION: npz(**folds()),
            GOLDEN: npz(**expectations(model, photos)),
            CARD: "# Tiny\n\nA model card with a `µ` in it.\n".encode(),
            **photos,
        }.items()
    )


def sound_files() -> Files:
    """Return every file of a valid bundle except its manifest."""
    return dict(_sound())


def expectations(model: bytes, photos: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the arrays of `golden/expected.npz` for these photos."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        path.write_bytes(model)
        engine = OnnxEngine(path)
    pixels = [preprocess(photo, tiny_graph.SPEC, 1_000_000) for photo in photos.values()]
    outputs = [engine.run(0, [image]) for image in pixels]
    fields = ("logits", "scores", "nearest_class")
    return {
        "names": np.array(list(photos)),
        "pixels_sha256": np.array([pixels_digest(image) for image in pixels]),
        **{f: np.concatenate([getattr(output, f) for output in outputs]) for f in fields},
    }


def golden_arrays(files: Files) -> dict[str, Any]:
    """Return the arrays of `golden/expected.npz`, to be changed and sealed again."""
    with np.load(io.BytesIO(files[GOLDEN])) as arrays:
        return dict(arrays)


def fields_for(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the manifest's fields for these files."""
    model = sha256(files[MODEL]) if MODEL in files else "0" * 64
    return {
        "name": "tiny",
        "version": "1",
        "provenance": {
            "source": "made in a test",
            "licence": "CC0-1.0",
            "checkpoint_sha256": "0" * 64,
            "recipe": "tiny_bundle.py",
        },
        "task": {
            "classes": tiny_graph.CLASSES,
            "features": tiny_graph.FEATURES,
            "height": tiny_graph.SIDE,
            "width": tiny_graph.SIDE,
        },
        "preprocess": tiny_graph.SPEC.model_dump(),
        "calibration": {"fitted": True, "temperature": 1.25, "samples": 500},
        "gate": {
            "scores": ("energy", "mahalanobis"),
            "combination": ("energy", "mahalanobis"),
            "energy_temperature": tiny_graph.ENERGY_TEMPERATURE,
            "mahalanobis": {
                "features": "l2-normalised",
                "covariance": "tied",
                "means": "class-means",
            },
            "guarantee": "marginal",
            "alpha_reject": 0.01,
            "alpha_review": 0.05,
            "fold_a": FOLD,
            "fold_b": FOLD,
            "splits": {"a": "a" * 64, "b": "b" * 64},
            "calibrated_for_model": model,
            "calibrated_for_preprocess": tiny_graph.SPEC.digest,
        },
        "reference": {"class_counts": (160, 120, 80, 40)},
        "engine": {"buckets": (1, 2, 4)},
        "files": {
            name: {"bytes": len(content), "sha256": sha256(content)}
            for name, content in files.items()
        },
    }


def put(folder: Path, files: Mapping[str, bytes], change: Change = lambda fields: None) -> Path:
    """Seal `files` in `folder`, with a manifest that `change` may modify before it is sealed."""
    fields = fields_for(files)
    change(fields)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / MANIFEST).write_bytes(Manifest.model_validate(fields).to_file())
    return folder


def put_unchecked(folder: Path, files: Mapping[str, bytes], change: Change) -> Path:
    """Seal a manifest with a valid digest but invalid content."""
    fields = Manifest.model_validate(fields_for(files)).model_dump(mode="json")
    change(fields)
    put(folder, files)
    manifest = Manifest.model_construct(**fields)
    (folder / MANIFEST).write_bytes(manifest.to_file())
    return folder


def _photo(index: int, name: str) -> bytes:
    rng = np.random.default_rng(index)
    size = (9 + index, 7 + 2 * index, 3)
    image = Image.fromarray(rng.integers(0, 256, size, np.uint8))
    file = io.BytesIO()
    image.save(file, {"png": "PNG", "jpg": "JPEG", "bmp": "BMP"}[name[-3:]])
    return file.getvalue()
