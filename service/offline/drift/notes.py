"""What a worker notes of an image for the drift report of the set."""

from __future__ import annotations

import heapq
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from tidegate.service.bundle.store import Bundle
from tidegate.service.bundle_reference import drift_reference
from tidegate.service.drift.duplicates import Fingerprint, fingerprint
from tidegate.service.drift.reference import INPUTS
from tidegate.service.imaging.statistics import input_sample
from tidegate.service.offline.answers import Answer
from tidegate.service.ood.gates import combined_score
from tidegate.service.types import Decision, Float32, Pixels

PICTURES = 48  # of a set: more than a report shows, because like ones are shown once
_SIDE = 112  # pixels of a picture, at most
_QUALITY = 70

Rank = tuple[float, float, int]  # p-value, minus the combined score, index: the smallest first


class Picture(NamedTuple):
    """A small JPEG of what the network saw, and how unusual it is."""

    rank: Rank
    jpeg: bytes


class Noted(NamedTuple):
    """One image with a decision."""

    fingerprint: Fingerprint
    class_id: int
    probability: float
    p_value: float
    decision: Decision
    inputs: Mapping[str, float]  # {} if the bundle has no reference of inputs
    features: Float32 | None  # [D]; None if it has no reference of features
    picture: Picture | None  # None if this worker has seen more unusual images


class NoteTaker:
    """Takes the notes of one worker process."""

    def __init__(self, bundle: Bundle) -> None:
        """Read a file of the bundle."""
        self._bundle = bundle
        reference = drift_reference(bundle)
        self._with_inputs = any(name in reference.histograms for name in INPUTS)
        self._with_features = reference.embedding is not None
        self._unusual: list[tuple[float, float, int]] = []  # a heap of negated ranks

    def note(self, index: int, image: bytes, answer: Answer) -> Noted:
        """Return what is noted of an image. Takes a millisecond with a reference of inputs."""
        best, order = answer.predictions[0], self._bundle.manifest.preprocess.channel_order
        return Noted(
            fingerprint=fingerprint(answer.pixels),
            class_id=best.class_id,
            probability=best.probability,
            p_value=answer.p_value,
            decision=answer.decision,
            inputs=input_sample(image, answer.pixels, order) if self._with_inputs else {},
            features=answer.features if self._with_features else None,
            picture=self._picture(index, answer),
        )

    def _picture(self, index: int, answer: Answer) -> Picture | None:
        """Return a picture of an image that is among the most unusual ones so far."""
        rank = self._rank(index, answer)
        negated = (-rank[0], -rank[1], -rank[2])
        if len(self._unusual) < PICTURES:
            heapq.heappush(self._unusual, negated)
        elif heapq.heappushpop(self._unusual, negated) == negated:
            return None
        return Picture(rank, small_jpeg(answer.pixels, self._bundle))

    def _rank(self, index: int, answer: Answer) -> Rank:
        """Order images by their p-value; the score orders those beyond all calibration images."""
        gate = self._bundle.gate
        logs = [gate.folds_a[name].log_p(answer.scores[name]) for name in gate.combination]
        return answer.p_value, -float(combined_score(logs)), index


def small_jpeg(pixels: Pixels, bundle: Bundle) -> bytes:
    """Return preprocessed pixels as a JPEG of some kilobytes."""
    is_rgb = bundle.manifest.preprocess.channel_order == "rgb"
    picture = Image.fromarray(np.ascontiguousarray(pixels if is_rgb else pixels[:, :, ::-1]))
    picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()
