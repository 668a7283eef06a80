"""Fit everything in a bundle except its backbone: gate, temperature and drift reference.

train → means, covariance · calibrate → choice of the scores | fold A | fold B, calibration
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tidegate.models.data.duplicates import Marked, check_pixels_disjoint
from tidegate.models.data.folders import Splits, cut
from tidegate.models.data.outputs import (
    Extracted,
    ImagesUsed,
    NetworkOutputs,
    extract,
    load_pixels,
)
from tidegate.models.data.rows import chunks
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.probabilities import fit_temperature, score_predictions
from tidegate.models.fitting.candidates import ceiling_of, with_candidates
from tidegate.models.fitting.choice import cheapest, choose
from tidegate.models.fitting.conformal import (
    PARTS,
    Combination,
    GateTarget,
    Scores,
    calibrate,
    gate_file,
    missing_images,
)
from tidegate.models.fitting.detector import drawn_features, fit_detector
from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.models.fitting.feature_axes import embedding_fit
from tidegate.models.fitting.label_order import check_label_order
from tidegate.models.fitting.mahalanobis import DistanceFit, DistanceOptions, fit_distances
from tidegate.models.fitting.synthetic_outputs import synthetic_outputs
from tidegate.models.graphs.last_layer import last_layer
from tidegate.models.graphs.session import quiet_session
from tidegate.models.progress import say
from tidegate.models.sealing.gate_head import GateHead, head_graph
from tidegate.models.sealing.seal import seal, without_gate
from tidegate.service.bundle.manifest import Calibration, MahalanobisFit, ReferenceFit
from tidegate.service.drift.embedding import Embedding
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.gates import Gate
from tidegate.service.types import MAHALANOBIS

_SHUFFLED = 40  # images in shuffled patches, for the choice of the scores
_LEAST_SELECTED = 4  # two halves, for cross-fitting
_SELECTED = 2000  # images for the choice, at most


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Options of the fit, and the gate's target."""

    distance: DistanceOptions = field(default_factory=DistanceOptions)
    target: GateTarget = field(default_factory=GateTarget)
    accept_label_order: bool = False  # although the network recognises classes as each other


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A backbone and everything that was fitted to it."""

    graph: bytes  # the backbone with its preprocessing, without the gate
    sealed: bytes
    spec: PreprocessSpec
    head: GateHead
    every: GateHead  # with all scores among which was chosen
    gate: Gate
    gate_file: bytes  # calibration.npz
    candidates: dict[str, float]  # the criterion of each distance and combination of scores
    missing_images: tuple[int, ...]  # per class, for a threshold of its own
    mahalanobis: MahalanobisFit
    calibration: Calibration
    reference: ReferenceFit
    used: ImagesUsed
    target: GateTarget
    folds: tuple[Extracted, Extracted]  # A and B, whose outputs are in the scratch folder
    seen: tuple[Marked, Marked]  # the images of training and calibration


def fit(
    backbone: onnx.ModelProto,
    spec: PreprocessSpec,
    splits: Splits,
    labels: tuple[str, ...],
    options: FitOptions,
    scratch: Path,
) -> FittedModel:
    """Fit `backbone` on the splits `train` and `calibrate`, in bounded memory.

    The network's outputs, 4 bytes per class and feature of each image, go to `scratch`.

    Raises BuildRefused with the required number of images if there is too little data.
    """
    graph = without_gate(backbone, spec)
    train = extract(graph, splits.train, spec, scratch)
    held_out = extract(graph, splits.calibrate, spec, scratch)
    check_pixels_disjoint([train.marked], held_out.marked)
    if not options.accept_label_order:
        check_label_order(held_out.split.class_ids, held_out.predicted, labels)
    distances = fit_distances(train.features, train.split.class_ids, labels, options.distance)
    ceiling = ceiling_of(train.features)
    bounds = cut(len(held_out), PARTS)
    parts = {name: held_out.part(name, rows) for name, rows in bounds.items()}
    chosen = _choose(backbone, graph, spec, distances, ceiling, parts["selection"])
    head = chosen.head
    folds = {name: score_rows(head, parts[name]) for name in ("fold_a", "fold_b")}
    gate = calibrate(
        folds["fold_a"], folds["fold_b"], len(labels), options.target, chosen.combination
    )
    calibration = _calibration(held_out)
    reference, embedding = _reference(held_out, parts, folds, calibration, len(labels))
    return FittedModel(
        graph=graph,
        sealed=seal(backbone, spec, head),
        spec=spec,
        head=head,
        every=chosen.every,
        gate=gate,
        gate_file=gate_file(
            gate, options.target, embedding_mean=embedding.mean, embedding_axes=embedding.axes
        ),
        candidates=chosen.candidates,
        missing_images=missing_images(
            folds["fold_a"], folds["fold_b"], len(labels), options.target, gate.own_folds_b
        ),
        mahalanobis=_mahalanobis_fit(chosen.distance),
        calibration=calibration,
        reference=reference,
        used=ImagesUsed.of({"train": train, **parts}, {"train": train, "calibrate": held_out}),
        target=options.target,
        folds=(parts["fold_a"], parts["fold_b"]),
        seen=(train.marked, held_out.marked),
    )


def score_rows(head: GateHead, found: Extracted | NetworkOutputs) -> Scores:
    """Return the scores of stored outputs, computed by the nodes that are sealed."""
    session = quiet_session(head_graph(head))
    rows = [
        session.run(["scores"], {"logits": logits, "features": features})[0]
        for logits, features in chunks(found.logits, found.features)
    ]
    columns = np.concatenate(rows).astype(np.float64).T
    return Scores(dict(zip(head.names, columns, strict=True)), found.predicted)


def _mahalanobis_fit(distance: DistanceFit) -> MahalanobisFit:
    return MahalanobisFit(
        features="l2-normalised" if distance.statistics.normalised else "raw",
        relative=distance.relative,
        covariance="tied",
        means="class-means",
        shrinkage=distance.statistics.shrinkage,
        samples=distance.statistics.samples,
        rank=distance.rank,
    )


@dataclass(frozen=True, slots=True)
class _ChosenScores:
    """The head with the scores that are needed, those that decide, and all criteria."""

    head: GateHead
    every: GateHead
    distance: DistanceFit
    combination: Combination
    candidates: dict[str, float]


def _choose(
    backbone: onnx.ModelProto,
    graph: bytes,
    spec: PreprocessSpec,
    distances: list[DistanceFit],
    ceiling: float,
    selection: Extracted,
) -> _ChosenScores:
    """Choose the distance that is best alone, its rank, then the combination."""
    if len(selection) < _LEAST_SELECTED:
        raise BuildRefused("There are too few calibration images to choose the scores.")
    photographs = [load_pixels(item.path, spec) for item in selection.split.items[:_SHUFFLED]]
    images = NetworkOutputs(selection.logits[:_SELECTED], selection.features[:_SELECTED])
    synthetic = synthetic_outputs(graph, spec, photographs)
    alone: dict[str, float] = {}

    def criterion(distance: DistanceFit) -> float:
        found = choose(distance.head(), images, synthetic).criterion[(MAHALANOBIS,)]
        alone[distance.name] = round(found, 6)
        return alone[distance.name]

    best = max(distances, key=criterion)
    reduced = best.reduced()
    distance = cheapest([*reduced, best], [*map(criterion, reduced), alone[best.name]])
    drawn = drawn_features({kind: outputs.features for kind, outputs in synthetic.items()})
    detector = fit_detector(images.features, drawn)
    every = with_candidates(distance.head(), ceiling, last_layer(backbone), detector)
    choice = choose(every, images, synthetic)
    say(f"The scores that decide: {' + '.join(choice.combination)} ({distance.name}).")
    return _ChosenScores(
        head=every.with_scores(choice.combination),
        every=every,
        distance=distance,
        combination=choice.combination,
        candidates={name: round(value, 4) for name, value in alone.items()} | choice.named,
    )


def _calibration(held_out: Extracted) -> Calibration:
    """Fit the temperature on all calibration images, as the gate does not depend on it."""
    class_ids = held_out.split.class_ids
    if np.array_equal(held_out.predicted, class_ids):
        say("All calibration images are classified correctly: the temperature stays 1.")
        note = f"Not fitted: all {len(class_ids)} calibration images are classified correctly."
        return Calibration(fitted=False, temperature=1.0, note=note)
    temperature = fit_temperature(held_out.logits, class_ids)
    return Calibration(fitted=True, temperature=temperature, samples=len(class_ids))


def _reference(
    held_out: Extracted,
    parts: Mapping[str, Extracted],
    folds: Mapping[str, Scores],
    calibration: Calibration,
    classes: int,
) -> tuple[ReferenceFit, Embedding]:
    """Return the drift reference of folds A and B, and the axes of their features."""
    both = held_out.part("folds", slice(len(parts["selection"]), None))
    names = next(iter(folds.values())).values
    scores = {name: np.concatenate([f.values[name] for f in folds.values()]) for name in names}
    confidence = score_predictions(
        both.logits, both.split.class_ids, calibration.temperature
    ).confidence
    reference = reference_fit(both.predicted, classes, scores, both.inputs, confidence)
    return reference, embedding_fit(both.features)
