"""Fit everything a bundle holds beyond its backbone: the gate, the temperature, the reference.

train → means, covariance · calibrate → energy T | fold A | fold B, temperature · test → numbers
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx

from tidegate.models.data.folders import Split, cut
from tidegate.models.data.outputs import Extracted, extract, load_pixels
from tidegate.models.data.rows import chunks
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.evaluate import Scored, evaluate
from tidegate.models.evaluation.probabilities import fit_temperature, score_predictions
from tidegate.models.evaluation.score_histograms import score_histograms
from tidegate.models.fitting.conformal import (
    PARTS,
    GateTarget,
    Scores,
    calibrate,
    combine,
    final_p_values,
    gate_file,
)
from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.models.fitting.energy import choose_temperature, synthetic_ood_logits
from tidegate.models.fitting.feature_axes import embedding_fit
from tidegate.models.fitting.mahalanobis import DistanceFit, fit_distance
from tidegate.models.progress import say
from tidegate.models.sealing.check import quiet_session
from tidegate.models.sealing.seal import GateHead, head_alone, seal, without_gate
from tidegate.models.sealing.write import scratch
from tidegate.service.bundle.evidence import Evaluation
from tidegate.service.bundle.manifest import (
    Calibration,
    GateFit,
    Histogram,
    MahalanobisFit,
    ReferenceFit,
)
from tidegate.service.drift.embedding import Embedding
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.gates import Gate

_SHUFFLED = 40  # photographs whose patches are shuffled, for the energy temperature
_SELECTED = 2000  # images that choose it, at most


@dataclass(frozen=True, slots=True)
class Splits:
    """The images each step may see; `calibrate` is cut into PARTS."""

    train: Split
    calibrate: Split
    test: Split
    ood: Mapping[str, Split]

    def every(self) -> list[Split]:
        """Return all of them."""
        return [self.train, self.calibrate, self.test, *self.ood.values()]


@dataclass(frozen=True, slots=True)
class Score:
    """Which distance is fitted."""

    normalise: bool = True
    relative: bool = False


@dataclass(frozen=True, slots=True)
class Fitted:
    """A backbone with everything fitted to it, and what that is worth on the test split."""

    sealed: bytes
    head: GateHead
    gate: Gate
    gate_file: bytes  # calibration.npz
    distance: DistanceFit
    energy_temperature: float
    calibration: Calibration
    reference: ReferenceFit
    evaluation: Evaluation
    test_classes: tuple[int, ...]  # predicted, in the order of the test split
    digests: dict[str, str]  # split → digest of what was really used
    sizes: dict[str, int]
    left_out: dict[str, int]
    score_histograms: dict[str, dict[str, Histogram]]  # for the card


def fit(
    backbone: onnx.ModelProto,
    spec: PreprocessSpec,
    splits: Splits,
    labels: tuple[str, ...],
    score: Score,
    target: GateTarget,
    model_dir: Path,
) -> Fitted:
    """Fit and evaluate `backbone` on `splits`, in bounded memory.

    Outputs of the network, 4 bytes a class and a feature for each image, are kept below `model_dir`
    meanwhile.

    Raises BuildRefused when there is too little data, saying how much is needed.
    """
    graph = without_gate(backbone, spec)
    with scratch(model_dir) as folder:
        train = extract(graph, splits.train, spec, folder)
        held_out = extract(graph, splits.calibrate, spec, folder)
        distance = fit_distance(
            train.features,
            train.split.class_ids,
            labels,
            normalise=score.normalise,
            relative=score.relative,
        )
        bounds = cut(len(held_out), PARTS)
        parts = {name: held_out.part(name, rows) for name, rows in bounds.items()}
        energy_temperature = _energy_temperature(graph, spec, parts["selection"])
        head = distance.head(energy_temperature)
        scored = {name: score_rows(head, part) for name, part in parts.items()}
        gate = calibrate(scored["fold_a"], scored["fold_b"], len(labels), target)
        calibration = _calibration(held_out)
        test = extract(graph, splits.test, spec, folder)
        ood = {name: extract(graph, split, spec, folder) for name, split in splits.ood.items()}
        of_test = _scored(test, head, gate, labelled=True)
        of_ood = {name: _scored(found, head, gate, labelled=False) for name, found in ood.items()}
        evaluation = evaluate(
            of_test,
            of_ood,
            classes=len(labels),
            temperature=calibration.temperature,
            alpha_reject=target.alpha_reject,
            alpha_review=target.alpha_review,
        )
        reference, embedding = _reference(held_out, parts, scored, calibration, len(labels))
        everything = {"train": train, **parts, "test": test, **ood}
        return Fitted(
            sealed=seal(backbone, spec, head),
            head=head,
            gate=gate,
            gate_file=gate_file(
                gate, target, embedding_mean=embedding.mean, embedding_axes=embedding.axes
            ),
            distance=distance,
            energy_temperature=energy_temperature,
            calibration=_with_errors(calibration, evaluation),
            reference=reference,
            evaluation=evaluation,
            test_classes=tuple(test.predicted.tolist()),
            digests={name: found.split.digest for name, found in everything.items()},
            sizes={name: len(found) for name, found in everything.items()},
            left_out={f.split.name: f.left_out for f in (train, held_out, test, *ood.values())},
            score_histograms=score_histograms(of_test, of_ood),
        )


def score_rows(head: GateHead, found: Extracted) -> Scores:
    """Return both scores of stored outputs, as the nodes that are sealed compute them."""
    session = quiet_session(head_alone(head))
    energy, mahalanobis = [], []
    for logits, features in chunks(found.logits, found.features):
        e, m = session.run(["energy", "mahalanobis"], {"logits": logits, "features": features})
        energy.append(e)
        mahalanobis.append(m)
    return Scores(
        energy=np.concatenate(energy).astype(np.float64),
        mahalanobis=np.concatenate(mahalanobis).astype(np.float64),
        predicted=found.predicted,
    )


def gate_fit(fitted: Fitted, score: Score, target: GateTarget, spec: PreprocessSpec) -> GateFit:
    """Return what the manifest says of the gate."""
    return GateFit(
        energy_temperature=fitted.energy_temperature,
        mahalanobis=MahalanobisFit(
            features="l2-normalised" if score.normalise else "raw",
            relative=score.relative,
            covariance="tied",
            means="class-means",
            shrinkage=fitted.distance.shrinkage,
            samples=fitted.distance.samples,
        ),
        guarantee="marginal" if target.delta is None else "pac",
        guarantee_delta=target.delta,
        alpha_reject=target.alpha_reject,
        alpha_review=target.alpha_review,
        fold_a=fitted.sizes["fold_a"],
        fold_b=fitted.sizes["fold_b"],
        own_threshold=tuple(fitted.gate.own_folds_b),
        splits=fitted.digests,
        calibrated_for_model=sha256(fitted.sealed).hexdigest(),
        calibrated_for_preprocess=spec.digest,
    )


def _energy_temperature(graph: bytes, spec: PreprocessSpec, selection: Extracted) -> float:
    if not len(selection):
        raise BuildRefused("There are too few calibration images to choose the energy score with.")
    photographs = [load_pixels(item.path, spec) for item in selection.split.items[:_SHUFFLED]]
    outside = synthetic_ood_logits(graph, spec, photographs)
    return choose_temperature(selection.logits[:_SELECTED], outside)


def _calibration(held_out: Extracted) -> Calibration:
    """Fit the temperature on every calibration image: the gate does not depend on it."""
    class_ids = held_out.split.class_ids
    if np.array_equal(held_out.predicted, class_ids):
        say("Every calibration image is classified right: the temperature stays 1.")
        note = f"All {len(class_ids)} calibration images are classified right: nothing to fit on."
        return Calibration(fitted=False, temperature=1.0, note=note)
    temperature = fit_temperature(held_out.logits, class_ids)
    return Calibration(fitted=True, temperature=temperature, samples=len(class_ids))


def _with_errors(calibration: Calibration, evaluation: Evaluation) -> Calibration:
    return calibration.model_copy(
        update={
            "ece_before": evaluation.uncalibrated.ece,
            "ece_after": evaluation.calibrated.ece,
            "ece_noise_floor": evaluation.calibrated.ece_noise_floor,
        }
    )


def _scored(found: Extracted, head: GateHead, gate: Gate, *, labelled: bool) -> Scored:
    scores = score_rows(head, found)
    combined = combine(gate.energy_a, gate.mahalanobis_a, scores)
    return Scored(
        logits=found.logits,
        energy=scores.energy,
        mahalanobis=scores.mahalanobis,
        combined=combined,
        p_value=final_p_values(gate, combined, scores.predicted),
        class_ids=found.split.class_ids if labelled else None,
    )


def _reference(
    held_out: Extracted,
    parts: Mapping[str, Extracted],
    scored: Mapping[str, Scores],
    calibration: Calibration,
    classes: int,
) -> tuple[ReferenceFit, Embedding]:
    """Return the reference of folds A and B, and where their features lie."""
    folds = held_out.part("folds", slice(len(parts["selection"]), None))
    both = [scored["fold_a"], scored["fold_b"]]
    scores = {
        "energy": np.concatenate([part.energy for part in both]),
        "mahalanobis": np.concatenate([part.mahalanobis for part in both]),
    }
    confidence = score_predictions(
        folds.logits, folds.split.class_ids, calibration.temperature
    ).confidence
    reference = reference_fit(folds.predicted, classes, scores, folds.inputs, confidence)
    return reference, embedding_fit(folds.features)
