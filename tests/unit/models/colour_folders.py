"""Image folders whose classes are colours, and a backbone that classifies them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.unit.models import tiny
from tidegate.models.build_request import Data
from tidegate.models.importers.base import Imported

COLOURS = {
    "blue": (40, 60, 200),
    "green": (50, 180, 70),
    "grey": (128, 128, 128),
    "red": (200, 50, 40),
    "yellow": (210, 200, 60),
}
LABELS = tuple(COLOURS)


def folders(root: Path, train: int = 20, calibrate: int = 60, test: int = 20) -> Data:
    """Write the splits below `root`, so many images a class, and return them."""
    rng = np.random.default_rng(0)
    for split, n in {"train": train, "calibrate": calibrate, "test": test}.items():
        for label, colour in COLOURS.items():
            for index in range(n):
                _put(root / split / label / f"{index}.png", rng, colour)
    for index in range(30):
        _put(root / "purple" / f"{index}.png", rng, (160, 20, 220))
    return Data(root / "train", root / "calibrate", root / "test", ood={"purple": root / "purple"})


def backbone() -> onnx.ModelProto:
    """Return a network whose features are the closeness of the mean colour to six known ones.

    Features rise from 0 to 1 as a rectified cone around each colour; the logits are six times
    those of the five classes, so the sixth feature sees what no class has.
    """
    mean, std = (np.array(v) for v in (tiny.SPEC.mean, tiny.SPEC.std))
    known = (np.array([*COLOURS.values(), (160, 20, 220)]) / 255 - mean) / std
    constants = {
        "known": known.T.reshape(1, 3, len(known)).astype(np.float32),
        "reach": np.array(2.5, np.float32),
        "last": np.array([2]),
        "weights": 6 * np.eye(len(known), len(COLOURS), dtype=np.float32),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "last"], ["column"]),
        helper.make_node("Sub", ["column", "known"], ["apart"]),
        helper.make_node("ReduceL2", ["apart"], ["distance"], axes=[1], keepdims=0),
        helper.make_node("Sub", ["reach", "distance"], ["close"]),
        helper.make_node("Relu", ["close"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("input", floats, ["batch", 3, tiny.SIDE, tiny.SIDE])],
        [
            helper.make_tensor_value_info("logits", floats, ["batch", len(COLOURS)]),
            helper.make_tensor_value_info("features", floats, ["batch", len(known)]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def imported(**changes: object) -> Imported:
    fields = {
        "backbone": backbone(),
        "spec": tiny.SPEC,
        "transform": None,
        "forward": None,
        "source": "made in a test",
        "licence": "CC0-1.0",
        "checkpoint_sha256": "0" * 64,
        "labels": None,
    }
    return Imported(**(fields | changes))  # type: ignore[arg-type]  # a test's own keywords


def _put(path: Path, rng: np.random.Generator, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = rng.integers(8, 20, 2)
    tint = np.asarray(colour) + rng.normal(0, 25, 3)
    pixels = tint + rng.normal(0, 20, (*size, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
