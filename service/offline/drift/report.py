"""Compare the notes of a set, or of all its shards, with the bundle's reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.service.bundle.store import Bundle
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.drift.class_dependence import ClassDependence
from tidegate.service.drift.dependence import Dependence
from tidegate.service.drift.recent_images import P_EDGES
from tidegate.service.drift.reference import Reference
from tidegate.service.drift.whole_set import (
    Effects,
    ImageSet,
    Reach,
    SetFeatures,
    SetReport,
    compare,
    reach,
)
from tidegate.service.errors import JobRefused
from tidegate.service.offline.drift.records import (
    REJECT,
    Notes,
    Shown,
    joined,
    most_unusual,
    watched,
)

_CHUNK = 4_096  # images; dependence is learned in so large steps

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class SetDrift:
    """What a drift report says, before it is put into words."""

    model: str
    digest: str
    outcomes: Mapping[str, int]  # of all images, also of those without an answer
    shards: int  # into which the set was divided
    missing: tuple[int, ...]  # those without notes here
    images: int  # with a decision
    near_duplicates: int  # of these, which are not counted
    found: ImageSet  # what was counted
    reference: Reference
    independent: SetReport  # if every image counts
    in_runs: SetReport  # if like images in a row count as one
    effects: Effects  # measured, of the latter
    reach: Reach
    expected_accuracy: float | None  # the mean probability of the predicted classes
    shown: tuple[Shown, ...]  # the most unusual images


def build(bundle: Bundle, notes: Sequence[Notes]) -> SetDrift:
    """Compare a set with the bundle's reference; `notes` has each shard once.

    Raises JobRefused if they are of another bundle, or do not fit together.
    """
    for one in notes:
        if one.facts["digest"] != bundle.digest:
            raise JobRefused(
                f"The notes are of the bundle {one.facts['digest'][:12]}, not of {bundle.path} "
                f"({bundle.short_digest})."
            )
    of, missing = _shards(notes)
    in_order = _in_order(notes, of)
    reference = drift_reference(bundle)
    counted, inputs = _without_duplicates(in_order)
    found = _counted(counted, inputs, in_order, reference)
    effects = _effects(counted, in_order, len(reference.class_counts))
    answered = counted["decision"] != REJECT
    return SetDrift(
        model=f"{bundle.manifest.name} {bundle.manifest.version}",
        digest=bundle.digest,
        outcomes=_outcomes(notes),
        shards=of,
        missing=missing,
        images=len(in_order),
        near_duplicates=len(in_order) - len(counted["key"]),
        found=found,
        reference=reference,
        independent=compare(found, reference, Effects(features=_repeated(in_order))),
        in_runs=compare(found, reference, effects),
        effects=effects,
        reach=reach(found.images, reference, Effects()),
        expected_accuracy=(
            float(counted["probability"][answered].mean()) if answered.any() else None
        ),
        shown=in_order.shown,
    )


def _shards(notes: Sequence[Notes]) -> tuple[int, tuple[int, ...]]:
    """Return into how many shards the set was divided, and which are missing."""
    shards = [tuple(one.facts["shard"]) for one in notes]
    of = {total for _, total in shards}
    if len(of) != 1 or len(set(shards)) != len(shards):
        names = ", ".join(f"{shard}/{total}" for shard, total in shards)
        raise JobRefused(
            f"The notes are of the shards {names}: give each shard of one division once."
        )
    [total] = of
    present = {shard for shard, _ in shards}
    return total, tuple(sorted(set(range(1, total + 1)) - present))


def _in_order(notes: Sequence[Notes], of: int) -> Notes:
    """Join shards in the order of the set: shard i of n has every n-th image, from the i-th."""
    whole = joined(notes, {})
    shard = np.repeat([one.facts["shard"][0] for one in notes], [len(one) for one in notes])
    place = whole.columns["index"] * of + shard - 1
    order = np.argsort(place, kind="stable")
    part = np.repeat(np.arange(len(whole.parts)), whole.parts)
    columns = {name: column[order] for name, column in whole.columns.items()}
    columns |= {"index": place[order], "part": part[order]}
    return Notes(
        columns, whole.inputs[order], whole.parts, whole.feature_sum, whole.feature_images,
        most_unusual(whole.shown),
    )  # fmt: skip


def _without_duplicates(notes: Notes) -> tuple[Columns, NDArray[np.uint8]]:
    """Return the first image of each group of near-duplicates, in order."""
    _, first = np.unique(notes.columns["key"], return_index=True)
    first.sort()
    return {name: column[first] for name, column in notes.columns.items()}, notes.inputs[first]


def _counted(
    counted: Columns, inputs: NDArray[np.uint8], notes: Notes, reference: Reference
) -> ImageSet:
    answered = counted["decision"] != REJECT
    histograms = {
        name: np.bincount(inputs[:, place], minlength=len(reference.histograms[name].counts))
        for place, name in enumerate(watched(reference))
    }
    if (bins := reference.histograms.get("confidence")) is not None:
        places = bins.places(counted["probability"][answered])
        histograms["confidence"] = np.bincount(places, minlength=len(bins.counts))
    features = None
    if notes.feature_images:
        features = SetFeatures(notes.feature_images, notes.feature_sum / notes.feature_images)
    return ImageSet(
        rejected=int((~answered).sum()),
        classes=np.bincount(counted["class_id"][answered], minlength=len(reference.class_counts)),
        p_values=np.bincount(P_EDGES.searchsorted(counted["p_value"]), minlength=len(P_EDGES) + 1),
        histograms=histograms,
        features=features,
    )


def _effects(counted: Columns, notes: Notes, classes: int) -> Effects:
    """Return the design effects of images in runs, measured in the order of the set."""
    rejections, of_classes = Dependence(1), ClassDependence(classes)
    answered = counted["decision"] != REJECT
    for at in range(0, len(answered), _CHUNK):
        chunk = slice(at, at + _CHUNK)
        rejections.add((counted["p_value"][chunk, None] - 0.5) * np.sqrt(12))
        of_classes.add(counted["class_id"][chunk][answered[chunk]].astype(np.int64))
    effect = rejections.design_effect()
    most = max(effect, of_classes.design_effect())
    return Effects(effect, most, most * _repeated(notes))


def _repeated(notes: Notes) -> float:
    """Return the design effect of near-duplicates in several parts, whose features are all summed.

    If image i is summed m_i times, it is Σ m_i² / Σ m_i (Kish 1965).
    """
    answered = notes.columns["decision"] != REJECT
    pairs = np.stack([notes.columns["key"][answered], notes.columns["part"][answered]])
    if not notes.feature_images or not pairs.size:
        return 1.0
    keys = np.unique(pairs.astype(np.uint64), axis=1)[0]
    _, times = np.unique(keys, return_counts=True)
    return float((times.astype(np.float64) ** 2).sum() / times.sum())


def _outcomes(notes: Sequence[Notes]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in notes:
        for outcome, images in one.facts["outcomes"].items():
            found[outcome] = found.get(outcome, 0) + images
    return dict(sorted(found.items()))
