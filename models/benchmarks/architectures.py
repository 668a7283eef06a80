"""Export, seal, open and time every architecture in the documentation.

Weights are random, unless a package contains trained ones, and the images are crops of six
photographs, so the bundles are useless as classifiers. They show that every step works for each
network.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from tidegate.models.benchmarks import efficientnet_lite
from tidegate.models.build_request import Data
from tidegate.models.data.folders import Split, labelled, shuffled
from tidegate.models.data.outputs import extract, load_pixels
from tidegate.models.evaluation.speed import cpu_ms_per_image
from tidegate.models.fitting.conformal import GateTarget, calibrate, gate_file
from tidegate.models.fitting.drift_reference import class_counts
from tidegate.models.fitting.fit import score_rows
from tidegate.models.fitting.mahalanobis import fit_distance
from tidegate.models.importers import from_timm, from_torchvision
from tidegate.models.importers.base import Imported
from tidegate.models.parity.export import check_export
from tidegate.models.parity.preprocessing import golden_probes, prove
from tidegate.models.precision.convert import convert
from tidegate.models.probes.photographs import PHOTOS
from tidegate.models.progress import say
from tidegate.models.sealing.assemble import Draft, SealedModel, assemble
from tidegate.models.sealing.seal import seal, without_gate
from tidegate.models.sealing.write import locked
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine

_PER_CLASS = {"train": 6, "calibrate": 10, "test": 2}
# Random features of two dozen images support no smaller alphas.
_TARGET = GateTarget(0.4, 0.5)


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the table and how it is imported."""

    name: str
    weights: str
    load: Callable[[], Imported]


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one architecture."""

    name: str
    source: str
    weights: str
    size: int  # pixels, both sides
    features: int
    parameters: int
    megabytes: float  # model.onnx
    logits_error: float  # against torch, of the largest logit
    batch_error: float  # a batch of 8 against single images, of the largest logit
    parity: str
    cpu_ms: float  # one image, one thread


def _timm(name: str, label: str) -> Architecture:
    return Architecture(
        label,
        "random",
        lambda: from_timm.load(name, classes=len(PHOTOS), random_weights=True),
    )


def _torchvision(name: str, label: str) -> Architecture:
    return Architecture(
        label,
        "random",
        lambda: from_torchvision.load(
            name, classes=len(PHOTOS), weights="IMAGENET1K_V1", random_weights=True
        ),
    )


def _lite(variant: str) -> Architecture:
    return Architecture(
        f"EfficientNet-{variant.capitalize()}",
        "ImageNet",
        lambda: efficientnet_lite.load(variant, classes=len(PHOTOS)),
    )


ARCHITECTURES = (
    _timm("resnet50", "ResNet-50"),
    _torchvision("resnet50", "ResNet-50"),
    _timm("resnext50_32x4d", "ResNeXt-50 32×4d"),
    _timm("resnetrs50", "ResNet-RS-50"),
    _timm("efficientnet_b0", "EfficientNet-B0"),
    _timm("efficientnet_b3", "EfficientNet-B3"),
    _torchvision("efficientnet_v2_s", "EfficientNetV2-S"),
    *map(_lite, efficientnet_lite.ARCHIVES),
    _timm("convnext_tiny", "ConvNeXt-T"),
    _timm("convnextv2_tiny", "ConvNeXtV2-T"),
    _timm("mobilenetv3_large_100", "MobileNetV3-L"),
    _timm("mobilenetv3_small_100", "MobileNetV3-S"),
    _timm("vit_small_patch16_224", "ViT-S/16"),
    _timm("deit_small_patch16_224", "DeiT-S"),
    _timm("swin_tiny_patch4_window7_224", "Swin-T"),
    _timm("swinv2_tiny_window8_256", "SwinV2-T"),
)


def measure(
    architectures: Sequence[Architecture],
    keep: Path | None = None,
    precision: m.Precision = "fp32",
) -> list[Row]:
    """Return a row for each, in a precision. Raises BuildRefused at the first one that fails.

    If `keep` is given, the bundles are kept below it, one folder each.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="tidegate-architectures-") as folder:
        root = Path(folder)
        bundles_dir = keep or root / "bundles"
        data = _crops(root / "six", [path.stem for path in PHOTOS])
        for place, architecture in enumerate(architectures, start=1):
            say(f"{architecture.name} [{place}/{len(architectures)}]")
            rows.append(_measured(architecture, data, bundles_dir, precision))
    return rows


def _folder_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| architecture | from | weights | input | features | parameters | model.onnx | "
        "logits against torch | batch of 8 against single images | preprocessing | CPU per image |",
        "|" + " --- |" * 11,
    ]
    lines += [
        f"| {r.name} | {r.source} | {r.weights} | {r.size} | {r.features:,} | "
        f"{r.parameters / 1e6:.1f} M | {r.megabytes:.0f} MB | {r.logits_error:.1e} | "
        f"{r.batch_error:.1e} | {r.parity} | {r.cpu_ms:.1f} ms |"
        for r in rows
    ]
    return "\n".join(lines)


def _measured(
    architecture: Architecture, data: Data, bundles_dir: Path, precision: m.Precision
) -> Row:
    imported = architecture.load()
    source = imported.source.split()[0]
    suffix = "" if precision == "fp32" else f" {precision}"
    model_dir = bundles_dir / _folder_name(f"{architecture.name} {source}{suffix}")
    classes = tuple(path.stem for path in PHOTOS)
    splits = {name: shuffled(labelled(name, getattr(data, name), classes)) for name in _PER_CLASS}
    logits_error, batch_error = check_export(imported, imported.spec, splits["test"])
    transform = imported.transform
    parity = None if transform is None else prove(imported.spec, transform)
    if precision != "fp32":
        backbone = convert(imported.backbone, imported.spec, splits["calibrate"], precision)
        imported = replace(imported, backbone=backbone, precision=precision)
    bundle = _sealed(imported, splits, classes, model_dir)
    engine = OnnxEngine(bundle.model_path)
    check_golden(bundle, lambda images: engine.run(0, images))
    sealed = bundle.model_path.read_bytes()
    images = [load_pixels(path, imported.spec) for path in PHOTOS]
    return Row(
        name=architecture.name,
        source=source,
        weights=architecture.weights,
        size=imported.spec.output_size[0],
        features=bundle.manifest.task.features,
        parameters=_parameters(imported.backbone),
        megabytes=len(sealed) / 1e6,
        logits_error=logits_error,
        batch_error=batch_error,
        parity="by hand" if parity is None else "proved" if parity.exact else "differs",
        cpu_ms=cpu_ms_per_image({"sealed": sealed}, np.stack(images), rounds=12)["sealed"],
    )


def _sealed(
    imported: Imported, splits: dict[str, Split], classes: tuple[str, ...], model_dir: Path
) -> Bundle:
    """Write a complete bundle except for an evaluation, which needs a trained network."""
    spec, graph = imported.spec, without_gate(imported.backbone, imported.spec)
    with tempfile.TemporaryDirectory() as folder:
        train, held_out = (
            extract(graph, splits[name], spec, Path(folder)) for name in ("train", "calibrate")
        )
        distance = fit_distance(train.features, train.split.class_ids, classes)
        head = distance.head()
        scores = score_rows(head, held_out)
        half = len(held_out) // 2
        folds = [scores.part(rows) for rows in (slice(0, half), slice(half, 2 * half))]
    gate = calibrate(folds[0], folds[1], len(classes), _TARGET, head.names[:2])
    model = SealedModel(seal(imported.backbone, spec, head), head, spec)
    draft = Draft(
        name=model_dir.name,
        version="1",
        provenance=m.Provenance(
            source=imported.source,
            licence=imported.licence,
            checkpoint_sha256=imported.checkpoint_sha256,
            recipe="tidegate architectures",
        ),
        model=model,
        labels=classes,
        calibration=m.Calibration(fitted=False, temperature=1.0),
        gate=model.gate_fit(
            gate,
            {},
            m.MahalanobisFit(features="l2-normalised", covariance="tied", means="class-means"),
            {name: split.digest for name, split in splits.items()},
            fold_b=half,
        ),
        gate_file=gate_file(gate, _TARGET),
        reference=m.ReferenceFit(
            class_counts=class_counts(scores.predicted, len(classes)),
        ),
        precision=imported.precision,
        probes=golden_probes(spec),
        card=b"# A benchmark of an architecture\n\nNot a trained classifier.\n",
    )
    with locked(model_dir, lambda: None):
        return assemble(model_dir, draft)


def _crops(root: Path, classes: Sequence[str]) -> Data:
    """Write random crops of the photographs; each photograph is a class."""
    rng = np.random.default_rng(0)
    for path, label in zip(PHOTOS, classes, strict=True):
        photo = Image.open(path).convert("RGB")
        for split, count in _PER_CLASS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                side = int(rng.integers(96, min(photo.size) + 1))
                left = int(rng.integers(0, photo.width - side + 1))
                upper = int(rng.integers(0, photo.height - side + 1))
                crop = photo.crop((left, upper, left + side, upper + side))
                crop.save(folder / f"{index}.png")
    return Data(root / "train", root / "calibrate", root / "test")


def _parameters(backbone: onnx.ModelProto) -> int:
    """Return the number of weights in the graph, without shapes and other integers."""
    return sum(
        int(np.prod(item.dims))
        for item in backbone.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
    )
