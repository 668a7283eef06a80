"""Measure what a gate catches: synthetic OOD images, and images of classes that are left out.

The images are not used in the fit. A group of synthetic images is measured on kinds that no fit
uses, because a gate that was fitted on a kind catches almost every other image of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.outputs import NetworkOutputs, run_pixels
from tidegate.models.data.rows import Float64
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.intervals import mean_share, wilson_share
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.choice import class_groups
from tidegate.models.fitting.conformal import GateTarget, calibrate, combine, final_p_values
from tidegate.models.fitting.fit import score_rows
from tidegate.models.progress import follow
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.bundle.evidence import Caught, Coverage, KindCaught, LeftOutClasses, Share
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.gates import Gate
from tidegate.service.types import Pixels

PER_KIND = 60  # images of a kind that was not used in the fit; a third of it for one that was
_PHOTOGRAPHS = "shuffled photographs"  # the name of their group
_MOST = 4000  # images of a fold or of a group of classes, at most


@dataclass(frozen=True, slots=True)
class CalibratedHead:
    """A gate head, and the gate that was calibrated for its scores."""

    head: GateHead
    gate: Gate

    def p_values(self, outputs: NetworkOutputs) -> Float64:
        """Return the final p-value of every image, [n]."""
        scores, gate = score_rows(self.head, outputs), self.gate
        combined = combine(gate.folds_a, gate.combination, scores.values)
        return final_p_values(gate, combined, scores.predicted)


@dataclass(frozen=True, slots=True)
class LabelledOutputs:
    """The backbone's outputs for images of known classes."""

    outputs: NetworkOutputs
    class_ids: NDArray[np.int64]  # [n]

    def of_classes(self, chosen: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NetworkOutputs:
        """Return the images of classes `chosen`, as from a model with only the classes `kept`."""
        rows = np.flatnonzero(chosen[self.class_ids])[:_MOST]
        return NetworkOutputs(self.outputs.logits[rows][:, kept], self.outputs.features[rows])


def synthetic_p_values(
    graph: bytes,
    spec: PreprocessSpec,
    photographs: list[Pixels],
    measured: CalibratedHead,
    per_kind: int = PER_KIND,
) -> dict[str, Float64]:
    """Return the p-values of each kind of synthetic OOD image, and of shuffled `photographs`.

    `graph` returns logits and features of uint8 pixels.
    """
    seed, found = synthetic_ood.REPORT_SEED, {}
    for kind in follow(list(synthetic_ood.KINDS), "Measuring what the gate catches"):
        number = per_kind // 3 if kind in synthetic_ood.FIT_KINDS else per_kind
        images = synthetic_ood.generate(kind, number, seed, spec)
        found[kind] = measured.p_values(run_pixels(graph, images))
    mixed = synthetic_ood.shuffled(photographs[:per_kind], seed)
    found[synthetic_ood.SHUFFLED] = measured.p_values(run_pixels(graph, mixed))
    return found


def left_out_p_values(
    measured: CalibratedHead,
    target: GateTarget,
    folds: tuple[LabelledOutputs, LabelledOutputs],
    unseen: LabelledOutputs,
) -> list[Float64]:
    """Return, for each group of classes, the p-values of its images by a gate without the group.

    The group is removed from the logits and the scores, and the gate is calibrated again on folds A
    and B without its images. A group is not measured if `unseen` has no image of it, or if too few
    classes or calibration images remain.
    """
    found = []
    group_of, combination = class_groups(measured.head.means), measured.gate.combination
    for group in range(int(group_of.max()) + 1):
        kept = group_of != group
        images = unseen.of_classes(~kept, kept)
        if not len(images.features) or kept.sum() < 2:
            continue
        head = measured.head.with_classes(kept)
        fold_a, fold_b = (score_rows(head, fold.of_classes(kept, kept)) for fold in folds)
        try:
            gate = calibrate(fold_a, fold_b, int(kept.sum()), target, combination)
        except BuildRefused:  # too few calibration images without the group
            continue
        found.append(replace(measured, head=head, gate=gate).p_values(images))
    return found


def summarise(synthetic: Mapping[str, Float64], left_out: list[Float64], gate: Gate) -> Coverage:
    """Return the shares that the gate rejects, and that it rejects or marks for review."""
    in_fit = {*synthetic_ood.FIT_KINDS, synthetic_ood.SHUFFLED}
    groups: dict[str, list[Float64]] = {}
    for kind, p in synthetic.items():
        if kind not in synthetic_ood.FIT_KINDS:
            groups.setdefault(_group(kind), []).append(p)
    of_groups = {name: np.concatenate(p) for name, p in groups.items()}
    return Coverage(
        kinds=tuple(
            KindCaught(
                name=kind,
                group=_group(kind),
                in_fit=kind in in_fit,
                **_shares(p, gate),
            )
            for kind, p in synthetic.items()
        ),
        groups={name: Caught(**_shares(p, gate)) for name, p in of_groups.items()},
        synthetic=_mean_over(list(of_groups.values()), gate),
        left_out_classes=(
            LeftOutClasses(groups=len(left_out), **_shares(np.concatenate(left_out), gate))
            if left_out
            else None
        ),
    )


def _group(kind: str) -> str:
    return _PHOTOGRAPHS if kind == synthetic_ood.SHUFFLED else synthetic_ood.KINDS[kind].group


class _Shares(TypedDict):
    rejected: Share
    caught: Share


def _shares(p: Float64, gate: Gate) -> _Shares:
    return {
        "rejected": wilson_share(int((p <= gate.alpha_reject).sum()), len(p)),
        "caught": wilson_share(int((p <= gate.alpha_review).sum()), len(p)),
    }


def _mean_over(groups: list[Float64], gate: Gate) -> Caught:
    images = np.array([len(p) for p in groups])
    rejected = np.array([(p <= gate.alpha_reject).sum() for p in groups])
    caught = np.array([(p <= gate.alpha_review).sum() for p in groups])
    return Caught(rejected=mean_share(rejected, images), caught=mean_share(caught, images))
