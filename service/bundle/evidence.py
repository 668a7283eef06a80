"""What was measured when a bundle was made: proof of preprocessing, evaluation, comparison.

The service carries it and shows it; nothing here changes an answer.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from tidegate.service.imaging.spec import Closed

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Unit = Annotated[float, Field(ge=0, le=1)]


ALL_CONFUSIONS_UP_TO = 50  # classes; with more, only the commonest confusions are sealed


class Parity(Closed):
    """Our preprocessing against the source library's own, over a frozen set of probe images."""

    library: str  # with its version
    backend: Literal["pillow", "torch", "tensorflow"]  # what resized when the model was trained
    probes: PositiveInt
    probe_set: Sha256
    compared_values: PositiveInt  # uint8 values after resize and crop
    differing_values: NonNegativeInt
    largest_level_difference: NonNegativeInt  # in levels of 0 to 255
    largest_float_difference: NonNegativeFloat  # of what the network is given
    exact: bool
    refused_probes: tuple[str, ...] = ()  # images the service refuses and the library takes

    @model_validator(mode="after")
    def _exact_means_exact(self) -> Self:
        if self.exact and (self.differing_values or self.largest_float_difference > 1e-6):
            raise ValueError("an exact parity has no differing value")
        return self


class Share(Closed):
    """A proportion of `images`, with its 95 % interval."""

    value: Unit
    low: Unit
    high: Unit
    images: PositiveInt


class ClassReport(Closed):
    """One class on the test split; None where there is nothing to divide by."""

    class_id: NonNegativeInt
    images: NonNegativeInt
    precision: Unit | None
    recall: Unit | None
    f1: Unit | None
    rejected: Unit | None  # share of its images that the gate rejects


class Confusion(Closed):
    """How many images of one class were predicted as a class."""

    actual: NonNegativeInt
    predicted: NonNegativeInt
    images: PositiveInt


class ReliabilityBin(Closed):
    """Images of like confidence: an equal-mass bin of the reliability diagram."""

    images: PositiveInt
    confidence: Unit
    accuracy: Unit


class Probabilities(Closed):
    """How good the probabilities are, at one temperature."""

    temperature: float = Field(gt=0)
    nll: NonNegativeFloat
    brier: NonNegativeFloat
    ece: Unit  # equal-mass bins
    ece_noise_floor: Unit  # 95th percentile of the ECE that perfect probabilities would show
    reliability: tuple[ReliabilityBin, ...]


class Separation(Closed):
    """How well a score tells an OOD set from the test split."""

    auroc: Unit
    fpr95_keeping_inside: Unit  # share of OOD let in when 95 % of the test split is
    fpr95_catching_outside: Unit  # share of the test split refused when 95 % of OOD is


class OodReport(Closed):
    """What the gate does with one set of images that it should refuse."""

    name: str
    images: PositiveInt
    separation: dict[str, Separation]  # energy, mahalanobis, combined
    rejected: Share
    reviewed: Share


class Evaluation(Closed):
    """The sealed bundle on images that nothing was fitted on."""

    images: PositiveInt
    accuracy: Share
    balanced_accuracy: Share
    macro_f1: Unit
    uncalibrated: Probabilities
    calibrated: Probabilities
    false_rejection: Share  # a beta interval
    false_review: Share
    classes: tuple[ClassReport, ...]
    confusions: tuple[Confusion, ...]  # every pair up to 50 classes, else the commonest mistakes
    ood: tuple[OodReport, ...] = ()


class Comparison(Closed):
    """A variant against the same model in fp32, both fitted and evaluated alike."""

    accuracy_change: float  # in points: 100 × (variant − fp32)
    ece_change: float
    agreement: Unit  # share of test images with the same top class
    auroc_change: dict[str, float]  # OOD set → change of the combined score's AUROC
    speed: float = Field(gt=0)  # CPU time per image of fp32 over the variant's: 2 is twice as fast
    size: float = Field(gt=0)  # bytes of model.onnx of fp32 over the variant's
