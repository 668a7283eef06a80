"""How well the scores separate OOD images that took no part in the choice of those that decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from tidegate.models.data.outputs import NetworkOutputs, run_pixels
from tidegate.models.evaluation.ood_metrics import auroc
from tidegate.models.fitting import synthetic_ood
from tidegate.models.fitting.choice import Choice, class_groups, weighted_mean
from tidegate.models.fitting.conformal import Combination, combine
from tidegate.models.fitting.coverage import PER_KIND, LabelledOutputs
from tidegate.models.fitting.fit import score_rows
from tidegate.models.progress import follow
from tidegate.models.sealing.gate_head import GateHead
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.types import Pixels


def separation(
    every: GateHead,
    combination: Combination,
    fold_a: LabelledOutputs,
    unseen: LabelledOutputs,
    synthetic: Mapping[str, NetworkOutputs],
) -> Choice:
    """Return the AUROC of each score of `every` alone, and of `combination`.

    As in the choice, but on `unseen` images, on `synthetic` ones as from `unseen_synthetic`, and
    with the tails of `fold_a`. A group of classes that is left out is known by its true classes.
    """
    candidates = list(dict.fromkeys([*((name,) for name in every.names), combination]))
    of_kinds = [
        _aurocs(candidates, every, fold_a.outputs, unseen.outputs, outputs)
        for outputs in synthetic.values()
    ]
    of_groups, images = [], []
    group_of = class_groups(every.means)
    for group in range(int(group_of.max()) + 1):
        kept = group_of != group
        known, inside, outside = (
            part.of_classes(classes, kept)
            for part, classes in ((fold_a, kept), (unseen, kept), (unseen, ~kept))
        )
        if kept.sum() > 1 and min(len(part.logits) for part in (known, inside, outside)):
            head = every.with_classes(kept)
            of_groups.append(_aurocs(candidates, head, known, inside, outside))
            images.append(len(outside.logits))
    kinds = Counter(map(_group, synthetic))  # every group counts the same
    return Choice(
        synthetic=weighted_mean(of_kinds, [1 / kinds[_group(kind)] for kind in synthetic]),
        removed_classes=weighted_mean(of_groups, images) if of_groups else {},
    )


def unseen_synthetic(
    graph: bytes, spec: PreprocessSpec, photographs: list[Pixels], per_kind: int = PER_KIND
) -> dict[str, NetworkOutputs]:
    """Return the outputs for the kinds that no fit uses, and for shuffled `photographs`."""
    kinds = [kind for kind in synthetic_ood.KINDS if kind not in synthetic_ood.FIT_KINDS]
    seed = synthetic_ood.REPORT_SEED
    images = {
        kind: synthetic_ood.generate(kind, per_kind, seed, spec)
        for kind in follow(kinds, "Making synthetic OOD images of other kinds")
    }
    images[synthetic_ood.SHUFFLED] = synthetic_ood.shuffled(photographs[:per_kind], seed)
    return {kind: run_pixels(graph, pictures) for kind, pictures in images.items()}


def _aurocs(
    candidates: list[Combination],
    head: GateHead,
    known: NetworkOutputs,
    inside: NetworkOutputs,
    outside: NetworkOutputs,
) -> dict[Combination, float]:
    """Return the AUROC of each candidate, with the tails of `known`."""
    own, usual, other = (score_rows(head, part).values for part in (known, inside, outside))
    tails = {name: TailedFold.of(np.sort(values)) for name, values in own.items()}
    return {c: auroc(combine(tails, c, usual), combine(tails, c, other)) for c in candidates}


def _group(kind: str) -> str:
    return kind if kind == synthetic_ood.SHUFFLED else synthetic_ood.KINDS[kind].group
