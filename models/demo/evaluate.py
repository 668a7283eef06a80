"""Evaluate the calibrated gate on images that were not used for fitting, for the model card.

Needs the pictures of scikit-image, scikit-learn and foolbox, which are read but not stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.data.outputs import MAX_PIXELS
from tidegate.models.demo.calibration_file import DemoCalibration
from tidegate.models.demo.spec import LABELS_FILE, PREPROCESS
from tidegate.models.demo.temperature import Labelled
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.ood_metrics import (
    auroc,
    fpr95_catching_outside,
    fpr95_keeping_inside,
)
from tidegate.models.evaluation.speed import cpu_ms_per_image
from tidegate.models.fitting.conformal import combine
from tidegate.models.progress import follow
from tidegate.models.sealing.check import run
from tidegate.service.imaging.preprocess import apply, preprocess
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, Gate
from tidegate.service.types import Outputs, Pixels

_TIMED = 8  # images
PHOTOGRAPHS = ("photographs", "labelled ImageNet samples of foolbox")
_PHOTOS = ("chelsea.png", "coffee.png", "camera.png", "rocket.jpg", "astronaut.png")
_MORE_PHOTOS = ("china.jpg", "flower.jpg")
_TEXTURES = ("brick.png", "grass.png", "gravel.png")
_DOCUMENTS = ("page.png", "text.png", "logo.png", "color.png", "phantom.png")
_MICROSCOPE_AND_SKY = ("cell.png", "ihc.png", "retina.jpg", "moon.png", "hubble_deep_field.jpg")
_OBJECTS = ("coins.png", "clock_motion.png")
_OTHER = (*_TEXTURES, *_DOCUMENTS, *_MICROSCOPE_AND_SKY, *_OBJECTS)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The folders of the packages whose pictures are used."""

    skimage: Path
    sklearn: Path
    foolbox: Path


def installed_pictures() -> Pictures:
    """Return the folders of the installed packages. Raises BuildRefused if one is missing."""
    return Pictures(*(_folder_of(name) for name in ("skimage", "sklearn", "foolbox")))


def evaluate(
    sealed: bytes,
    calibration: DemoCalibration,
    fold_b: Outputs,
    pictures: Pictures,
) -> dict[str, Any]:
    """Return p-values of single pictures, and the AUROC, both FPR95s and shares of sets.

    The in-distribution set is fold B with the combined score of fold A.
    """
    gate, labels = calibration.gate, LABELS_FILE.read_text("utf-8").split("\n")
    loaded = _single_pictures(pictures)
    singles = {
        group: {
            name: _single(outputs, index, calibration, labels) for index, name in enumerate(images)
        }
        for group, images in loaded.items()
        for outputs in [run(sealed, images.values())]
    }
    inside = combined(fold_b, calibration)
    sets = {}
    photographs = [pixels for group in PHOTOGRAPHS for pixels in loaded[group].values()]
    for name, images in _sets(photographs, pictures):
        outside = combined(run(sealed, follow(images, f"Scoring {name}")), calibration)
        p = gate.fold_b.p_values(outside)
        sets[name] = {
            "images": len(images),
            "auroc": round(auroc(inside, outside), 3),
            "fpr95_keeping_inside": round(fpr95_keeping_inside(inside, outside), 3),
            "fpr95_catching_outside": round(fpr95_catching_outside(inside, outside), 3),
            "rejected": round(float(np.mean(p <= gate.alpha_reject)), 3),
            "reviewed": round(
                float(np.mean((p > gate.alpha_reject) & (p <= gate.alpha_review))), 3
            ),
        }
    return {"singles": singles, "sets": sets}


def against_fp32(
    graphs: Mapping[str, bytes], photographs: list[Pixels], outputs: Outputs
) -> dict[str, Any]:
    """Return how often the top class is that of fp32, and the CPU time per image of both graphs.

    `outputs` are those of the last graph.
    """
    exact = run(graphs["fp32"], follow(photographs, "Scoring in fp32"))
    same = exact.logits.argmax(axis=1) == outputs.logits.argmax(axis=1)
    times = cpu_ms_per_image(graphs, np.stack(photographs[:_TIMED]))
    return {
        "photographs": len(photographs),
        "agreement": round(float(np.mean(same)), 4),
        "mean_logit_error": round(float(np.mean(np.abs(exact.logits - outputs.logits))), 4),
        "cpu_ms": {name: round(ms, 2) for name, ms in times.items()},
    }


def imagenet_samples(sealed: bytes, pictures: Pictures) -> Labelled:
    """Return foolbox's ImageNet samples, whose file names end with the class."""
    paths = sorted((pictures.foolbox / "data").glob("imagenet_*.jpg"))
    outputs = run(sealed, _load({path.name: path for path in paths}).values())
    class_ids = [int(path.stem.rpartition("_")[2]) for path in paths]
    return Labelled(outputs.logits, np.array(class_ids, np.int64))


def combined(outputs: Outputs, calibration: DemoCalibration) -> NDArray[np.float64]:
    """Return the combined score of every image, [batch]; higher is more unusual."""
    gate = calibration.gate
    values = dict(zip(gate.folds_a, outputs.scores.T, strict=True))
    return combine(gate.folds_a, gate.combination, values)


def held_out_uniformity(
    gate: Gate, fold_a: Outputs, fold_b: Outputs, partitions: int
) -> dict[str, Any]:
    """Return how often held-out photographs get p ≤ alpha, over random partitions of both folds.

    One third is used as fold A, one as fold B, and one as new images, whose p-values should be
    uniform.
    """
    scores = np.concatenate([fold_a.scores, fold_b.scores]).astype(np.float64)
    rng = np.random.default_rng(0)
    third = len(scores) // 3
    found = []
    for _ in range(partitions):
        order = rng.permutation(len(scores))
        a, b, new = (
            dict(zip(gate.folds_a, scores[rows].T, strict=True))
            for rows in (order[:third], order[third : 2 * third], order[2 * third :])
        )
        folds_a = {name: TailedFold.of(np.sort(values)) for name, values in a.items()}
        fold = FinalFold.marginal(np.sort(combine(folds_a, gate.combination, b)))
        found.append(fold.p_values(combine(folds_a, gate.combination, new)))
    p = np.concatenate(found)
    alphas = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
    return {
        "partitions": partitions,
        "calibration_size": third,
        "share_at_or_below": {str(alpha): round(float(np.mean(p <= alpha)), 4) for alpha in alphas},
    }


def _single_pictures(pictures: Pictures) -> dict[str, dict[str, Pixels]]:
    """Return the pictures that are reported one by one, by group and name."""
    photos = {name: pictures.skimage / "data" / name for name in _PHOTOS}
    photos |= {name: pictures.sklearn / "datasets/images" / name for name in _MORE_PHOTOS}
    samples = sorted((pictures.foolbox / "data").glob("imagenet_*.jpg"))
    other = {name: pictures.skimage / "data" / name for name in _OTHER}
    plain = {"black": 0, "mid-grey": 127, "white": 255}
    return {
        PHOTOGRAPHS[0]: _load(photos),
        PHOTOGRAPHS[1]: _load({path.name: path for path in samples}),
        "not ImageNet-like": _load(other),
        "flat": {name: _flat(level) for name, level in plain.items()},
    }


def _sets(photographs: list[Pixels], pictures: Pictures) -> Iterator[tuple[str, list[Pixels]]]:
    yield "inverted photographs", [Pixels(255 - pixels) for pixels in photographs]
    faces = np.load(pictures.skimage / "data" / "lfw_subset.npy")  # [200, 25, 25] in 0…1
    half = len(faces) // 2  # faces first, then crops of backgrounds
    crops = [_grey(crop) for crop in faces]
    yield "tiny grey faces (25 × 25, lfw_subset)", crops[:half]
    yield "tiny grey background crops (25 × 25, lfw_subset)", crops[half:]


def _single(
    outputs: Outputs, index: int, calibration: DemoCalibration, labels: list[str]
) -> dict[str, Any]:
    logits = outputs.logits[index] / calibration.report["temperature"]["temperature"]
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    verdict = calibration.gate.judge(outputs.scores[index].tolist(), int(logits.argmax()))
    return {
        "class_id": int(logits.argmax()),
        "label": labels[int(logits.argmax())],
        "probability": round(float(probabilities.max()), 3),
        "p_value": round(verdict.p_value, 4),
        "decision": verdict.decision,
    }


def _folder_of(package: str) -> Path:
    spec = find_spec(package)  # locates the package without importing it
    if spec is None or spec.origin is None:
        raise BuildRefused(
            f"The evaluation needs the pictures of {package}: "
            "pip install --no-deps scikit-image scikit-learn foolbox."
        )
    return Path(spec.origin).parent


def _load(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    return {
        name: preprocess(path.read_bytes(), PREPROCESS, MAX_PIXELS) for name, path in paths.items()
    }


def _flat(level: int) -> Pixels:
    return apply(Image.new("RGB", (256, 256), (level, level, level)), PREPROCESS)


def _grey(crop: NDArray[np.floating]) -> Pixels:
    picture = Image.fromarray(np.rint(255 * crop).astype(np.uint8))
    return apply(picture.convert("RGB"), PREPROCESS)
