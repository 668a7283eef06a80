"""A tiny backbone and bundle for tests of sealing and writing."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tidegate.models.sealing.check import run
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.seal import seal
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.golden import pixels_digest
from tidegate.service.bundle.store import CALIBRATION, CARD, GOLDEN, LABELS, MODEL
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.imaging.spec import PreprocessSpec, Resize

SIDE, CLASSES, WIDTH = 8, 5, 6
SPEC = PreprocessSpec(
    exif_orientation="apply",
    alpha="composite-white",
    sixteen_bit="scale",
    steps=(Resize(height=SIDE, width=SIDE, filter="bicubic"),),
    channel_order="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@dataclass(frozen=True)
class Numbers:
    """The backbone's parameters: features = mean pixel · A, logits = features · W · gain."""

    a: NDArray[np.float32]  # [3, WIDTH]
    w: NDArray[np.float32]  # [WIDTH, CLASSES]


def numbers(seed: int = 0, gain: float = 1.0) -> Numbers:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(3, WIDTH)).astype(np.float32)
    w = (gain * rng.normal(size=(WIDTH, CLASSES))).astype(np.float32)
    return Numbers(a, w)


def backbone(
    given: Numbers, *, opset: int = 17, entry: str = "input", batch: str | int = "batch"
) -> onnx.ModelProto:
    nodes = [
        helper.make_node("GlobalAveragePool", [entry], ["pooled"], doc_string="File exporter/x.py"),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "a"], ["features"]),
        helper.make_node("MatMul", ["features", "w"], ["logits"]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(entry, floats, [batch, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("logits", floats, [batch, CLASSES]),
            helper.make_tensor_value_info("features", floats, [batch, WIDTH]),
        ],
        [numpy_helper.from_array(given.a, "a"), numpy_helper.from_array(given.w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model


def head(seed: int = 0, *, whiten: bool = False, normalise: bool = True) -> GateHead:
    rng = np.random.default_rng(seed)
    return GateHead(
        energy_temperature=0.5,
        centre=rng.normal(size=WIDTH).astype(np.float32),
        whitening=rng.normal(size=(WIDTH, 4)) if whiten else None,
        means=rng.normal(size=(CLASSES, 4 if whiten else WIDTH)),
        normalise=normalise,
    )


def bundle_files(seed: int = 0) -> dict[str, bytes]:
    """Return every file of a good tiny bundle but its manifest."""
    sealed = seal(backbone(numbers(seed)), SPEC, head(seed))
    picture = io.BytesIO()
    Image.new("RGB", (12, 10), (200, 30, seed)).save(picture, "PNG")
    probe = "golden/probe.png"
    pixels = preprocess(picture.getvalue(), SPEC, 1000)
    outputs = run(sealed, [pixels])
    scores, combined = np.arange(30.0), np.linspace(0, 4, 30)
    return {
        MODEL: sealed,
        LABELS: "\n".join(f"class {index}" for index in range(CLASSES)).encode(),
        CALIBRATION: _npz(scores_a=np.stack([scores, scores]), combined_b=combined),
        CARD: f"# Tiny {seed}\n".encode(),
        probe: picture.getvalue(),
        GOLDEN: _npz(
            names=np.array([probe]),
            pixels_sha256=np.array([pixels_digest(pixels)]),
            logits=outputs.logits,
            scores=outputs.scores,
            nearest_class=outputs.nearest_class,
        ),
    }


def bundle_manifest(files: dict[str, bytes], recipe: str = "recipe 1") -> m.Manifest:
    listed = {
        name: m.File(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in files.items()
    }
    return m.Manifest(
        name="tiny",
        version="1",
        provenance=provenance(recipe),
        task=m.Task(classes=CLASSES, features=WIDTH, height=SIDE, width=SIDE),
        preprocess=SPEC,
        calibration=m.Calibration(fitted=False, temperature=1.0),
        gate=m.GateFit(
            scores=("energy", "mahalanobis"),
            combination=("energy", "mahalanobis"),
            energy_temperature=0.5,
            mahalanobis=m.MahalanobisFit(
                features="l2-normalised", covariance="spherical", means="class-means"
            ),
            guarantee="marginal",
            alpha_reject=0.05,
            alpha_review=0.1,
            fold_a=30,
            fold_b=30,
            splits={},
            calibrated_for_model=listed[MODEL].sha256,
            calibrated_for_preprocess=SPEC.digest,
        ),
        reference=m.ReferenceFit(class_counts=(6,) * CLASSES),
        files=listed,
    )


def provenance(recipe: str = "recipe 1") -> m.Provenance:
    return m.Provenance(source="made", licence="CC0-1.0", checkpoint_sha256="0" * 64, recipe=recipe)


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy's stub mixes up **kwds
    return content.getvalue()
