"""What was measured when a bundle was made: preprocessing parity, evaluation, comparison.

The service exposes these values; they do not affect answers.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from tidegate.service.imaging.spec import Closed

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Unit = Annotated[float, Field(ge=0, le=1)]


ALL_CONFUSIONS_UP_TO = 50  # classes; with more, only the most frequent confusions are sealed


class Parity(Closed):
    """Comparison of our preprocessing with the source library's, over a fixed probe set."""

    library: str  # with its version
    backend: Literal["pillow", "torch", "tensorflow", "cv2"]  # that resized images during training
    probes: PositiveInt
    probe_set: Sha256
    compared_values: PositiveInt  # uint8 values after resize and crop
    differing_values: NonNegativeInt
    largest_level_difference: NonNegativeInt  # in levels of 0 to 255
    largest_float_difference: NonNegativeFloat  # of the network's input
    exact: bool
    refused_probes: tuple[str, ...] = ()  # rejected by the service, accepted by the library

    @model_validator(mode="after")
    def _exact_means_exact(self) -> Self:
        if self.exact and (self.differing_values or self.largest_float_difference > 1e-6):
            raise ValueError("exact is true, but some values differ")
        return self


class Share(Closed):
    """A proportion of `images`, with its 95 % interval."""

    value: Unit
    low: Unit
    high: Unit
    images: PositiveInt


class ClassReport(Closed):
    """One class on the test split; a value is None if its denominator is zero."""

    class_id: NonNegativeInt
    images: NonNegativeInt
    precision: Unit | None
    recall: Unit | None
    f1: Unit | None
    rejected: Unit | None  # share of its images that the gate rejects


class Confusion(Closed):
    """The number of images of class `actual` that were predicted as `predicted`."""

    actual: NonNegativeInt
    predicted: NonNegativeInt
    images: PositiveInt


class ReliabilityBin(Closed):
    """An equal-mass bin of the reliability diagram: images of similar confidence."""

    images: PositiveInt
    confidence: Unit
    accuracy: Unit


class Probabilities(Closed):
    """The quality of the probabilities at one temperature."""

    temperature: float = Field(gt=0)
    nll: NonNegativeFloat
    brier: NonNegativeFloat
    ece: Unit  # equal-mass bins
    ece_noise_floor: Unit  # 95th percentile of the ECE of perfectly calibrated probabilities
    reliability: tuple[ReliabilityBin, ...]


class Separation(Closed):
    """How well a score separates an OOD set from the test split."""

    auroc: Unit
    fpr95_keeping_inside: Unit  # share of OOD accepted if 95 % of the test split is accepted
    fpr95_catching_outside: Unit  # share of the test split rejected if 95 % of OOD is rejected


class Caught(Closed):
    """The gate's decisions on images that it should not accept."""

    rejected: Share
    caught: Share  # rejected or marked for review


class KindCaught(Caught):
    """One kind of synthetic OOD image."""

    name: str
    group: str  # of similar kinds
    in_fit: bool  # other images of this kind were used in the fit


class LeftOutClasses(Caught):
    """Images of classes that were left out of the gate, one group of classes at a time."""

    groups: PositiveInt


class Coverage(Closed):
    """What the gate catches, measured when the bundle is made, on images not used in the fit."""

    kinds: tuple[KindCaught, ...]
    groups: dict[str, Caught]  # group → its kinds that were not used in the fit, if it has any
    synthetic: Caught  # the mean over the groups
    left_out_classes: LeftOutClasses | None = None  # None: too few classes or images
    accepted_although_weak: bool = False  # below the floor, sealed by an explicit option


class OodReport(Closed):
    """The gate's decisions on one set of images that it should reject."""

    name: str
    images: PositiveInt
    separation: dict[str, Separation]  # energy, mahalanobis, combined
    rejected: Share
    reviewed: Share


class Evaluation(Closed):
    """The sealed bundle's results on a test split that was not used for fitting."""

    images: PositiveInt
    accuracy: Share
    balanced_accuracy: Share
    macro_f1: Unit
    uncalibrated: Probabilities
    calibrated: Probabilities
    false_rejection: Share  # a beta interval
    false_review: Share
    classes: tuple[ClassReport, ...]
    confusions: tuple[Confusion, ...]  # all up to 50 classes, else the most frequent errors
    ood: tuple[OodReport, ...] = ()


class Comparison(Closed):
    """A variant compared with the same model in fp32, both fitted and evaluated the same way."""

    accuracy_change: float  # in points: 100 × (variant − fp32)
    ece_change: float
    agreement: Unit  # share of test images with the same top class
    auroc_change: dict[str, float]  # OOD set → change of the combined score's AUROC
    speed: float = Field(gt=0)  # CPU time per image, fp32 / variant: 2 means twice as fast
    size: float = Field(gt=0)  # bytes of model.onnx, fp32 / variant
