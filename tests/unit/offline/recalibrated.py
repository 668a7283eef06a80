"""The demo bundle with a gate and a reference for other images, as a fit would make them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.server import DEMO_BUNDLE
from tests.unit.bundle.tiny_bundle import npz, sha256
from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.models.fitting.feature_axes import embedding_fit
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import CALIBRATION, MANIFEST
from tidegate.service.drift.reference import INPUTS
from tidegate.service.imaging.statistics import input_sample
from tidegate.service.offline.answers import Answer
from tidegate.service.offline.predictor import Predictor
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import combined_score

FOLD_A = 150


def recalibrated(folder: Path, predictor: Predictor, images: Sequence[bytes]) -> Path:
    """Write a bundle whose gate and reference are those of `images`; the first 150 are fold A."""
    said = [answer for answer in predictor.predict(images) if isinstance(answer, Answer)]
    manifest = predictor.bundle.manifest
    scores = {name: np.array([one.scores[name] for one in said]) for name in manifest.gate.scores}
    folds = {name: TailedFold.of(np.sort(values[:FOLD_A])) for name, values in scores.items()}
    combined = combined_score(
        folds[name].log_p(scores[name][FOLD_A:]) for name in manifest.gate.combination
    )
    order = manifest.preprocess.channel_order
    inputs = [
        input_sample(image, one.pixels, order) for image, one in zip(images, said, strict=True)
    ]
    embedding = embedding_fit(np.stack([one.features for one in said]))
    arrays = npz(
        scores_a=np.stack([fold.scores for fold in folds.values()]),
        combined_b=np.sort(combined),
        embedding_mean=embedding.mean,
        embedding_axes=embedding.axes,
    )
    best = [one.predictions[0] for one in said]
    fields = manifest.model_dump()
    fields["gate"] |= {"fold_a": FOLD_A, "fold_b": len(combined), "guarantee": "marginal"}
    fields["gate"] |= {"guarantee_delta": None, "own_threshold": (), "missing_images": ()}
    fields["reference"] = reference_fit(
        np.array([one.class_id for one in best]),
        manifest.task.classes,
        scores,
        np.array([[sample[name] for name in INPUTS] for sample in inputs]),
        np.array([one.probability for one in best]),
    ).model_dump()
    fields["files"][CALIBRATION] = {"bytes": len(arrays), "sha256": sha256(arrays)}
    shutil.copytree(DEMO_BUNDLE, folder)
    (folder / CALIBRATION).write_bytes(arrays)
    (folder / MANIFEST).write_bytes(Manifest.model_validate(fields).to_file())
    return folder
