"""Measure what a gate catches: synthetic OOD images, and images of classes that are left out.

The images took no part in the fit: the synthetic ones have another seed, and some are of kinds that
no fit sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.outputs import NetworkOutputs, run_pixels
from tidegate.models.data.rows import Float64
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.intervals import mean_share, wilson_share
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.choice import class_groups
from tidegate.models.progress import follow
from tidegate.service.bundle.evidence import Caught, Coverage, KindCaught, LeftOutClasses
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.gates import Gate
from tidegate.service.types import Pixels

PER_KIND = 30  # images: 2 minutes for a network that takes 0.2 s for an image
PHOTOGRAPHS = "photographs"  # the group of shuffled photographs
_MOST = 4000  # images of a fold or of a group of classes, at most
PValues = Callable[[NetworkOutputs], Float64]  # outputs of n images → their final p-values, [n]


@dataclass(frozen=True, slots=True)
class LabelledOutputs:
    """The backbone's outputs for images of known classes."""

    outputs: NetworkOutputs
    class_ids: NDArray[np.int64]  # [n]

    def of_classes(self, chosen: NDArray[np.bool_], kept: NDArray[np.bool_]) -> NetworkOutputs:
        """Return the images of classes `chosen`, as a model with only the classes `kept`."""
        rows = np.flatnonzero(chosen[self.class_ids])[:_MOST]
        return NetworkOutputs(self.outputs.logits[rows][:, kept], self.outputs.features[rows])


def synthetic_p_values(
    graph: bytes, spec: PreprocessSpec, photographs: list[Pixels], p_values: PValues
) -> dict[str, Float64]:
    """Return the p-values of each kind of synthetic OOD image, and of shuffled `photographs`.

    `graph` returns logits and features of uint8 pixels.
    """
    seed, found = synthetic_ood.REPORT_SEED, {}
    for kind in follow(list(synthetic_ood.KINDS), "Measuring what the gate catches"):
        images = synthetic_ood.generate(kind, PER_KIND, seed, spec)
        found[kind] = p_values(run_pixels(graph, images))
    if photographs:
        mixed = synthetic_ood.shuffled(photographs[:PER_KIND], seed)
        found[synthetic_ood.SHUFFLED] = p_values(run_pixels(graph, mixed))
    return found


def left_out_p_values(
    means: NDArray[np.floating],
    folds: tuple[LabelledOutputs, LabelledOutputs],
    unseen: LabelledOutputs,
    refit: Callable[[NDArray[np.bool_], NetworkOutputs, NetworkOutputs], PValues],
) -> list[Float64]:
    """Return, for each group of classes, the p-values of its images by a gate without the group.

    `means` [C, D] are the class means, `refit` calibrates a gate for the classes that are kept on
    folds A and B without images of the group. A group without images in `unseen`, or whose absence
    leaves too few calibration images or classes, is not measured.
    """
    return list(_left_out(class_groups(means), folds, unseen, refit))


def summarise(synthetic: Mapping[str, Float64], left_out: list[Float64], gate: Gate) -> Coverage:
    """Return the shares that the gate rejects, and that it rejects or marks for review."""
    in_choice = {*synthetic_ood.FIT_KINDS, synthetic_ood.SHUFFLED}
    groups: dict[str, list[Float64]] = {}
    for kind, p in synthetic.items():
        groups.setdefault(_group(kind), []).append(p)
    of_groups = [np.concatenate(p) for p in groups.values()]
    return Coverage(
        kinds=tuple(
            KindCaught(
                name=kind,
                group=_group(kind),
                in_choice=kind in in_choice,
                **_shares(p, gate),
            )
            for kind, p in synthetic.items()
        ),
        groups={
            name: Caught(**_shares(p, gate)) for name, p in zip(groups, of_groups, strict=True)
        },
        synthetic=_mean_over(of_groups, gate),
        left_out_classes=(
            LeftOutClasses(groups=len(left_out), **_shares(np.concatenate(left_out), gate))
            if left_out
            else None
        ),
    )


def _left_out(
    group_of: NDArray[np.int64],
    folds: tuple[LabelledOutputs, LabelledOutputs],
    unseen: LabelledOutputs,
    refit: Callable[[NDArray[np.bool_], NetworkOutputs, NetworkOutputs], PValues],
) -> Iterator[Float64]:
    for group in range(int(group_of.max()) + 1):
        kept = group_of != group
        images = unseen.of_classes(~kept, kept)
        if not len(images.features) or kept.sum() < 2:
            continue
        try:
            p_values = refit(kept, *(fold.of_classes(kept, kept) for fold in folds))
        except BuildRefused:  # too few calibration images without the group
            continue
        yield p_values(images)


def _group(kind: str) -> str:
    return PHOTOGRAPHS if kind == synthetic_ood.SHUFFLED else synthetic_ood.KINDS[kind].group


def _shares(p: Float64, gate: Gate) -> dict[str, Any]:
    return {
        "rejected": wilson_share(int((p <= gate.alpha_reject).sum()), len(p)),
        "caught": wilson_share(int((p <= gate.alpha_review).sum()), len(p)),
    }


def _mean_over(groups: list[Float64], gate: Gate) -> Caught:
    images = np.array([len(p) for p in groups])
    rejected = np.array([(p <= gate.alpha_reject).sum() for p in groups])
    caught = np.array([(p <= gate.alpha_review).sum() for p in groups])
    return Caught(rejected=mean_share(rejected, images), caught=mean_share(caught, images))
