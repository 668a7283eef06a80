"""The manifest of a bundle: a closed schema, in canonical form, with a digest."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tidegate.service.bundle.evidence import Comparison, Coverage, Evaluation, Parity, Sha256, Unit
from tidegate.service.imaging.spec import Closed, PreprocessSpec
from tidegate.service.ood.conformal import sample_size_for
from tidegate.service.types import ENERGY, MAHALANOBIS

FORMAT: Literal["tidegate-bundle/3"] = "tidegate-bundle/3"
Precision = Literal["fp32", "bf16", "fp16", "int8"]
SLUG = r"[a-z0-9][a-z0-9._-]{0,63}"
Slug = Annotated[str, Field(pattern=rf"^{SLUG}$")]
ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Alpha = Annotated[float, Field(gt=0, lt=1)]
SMOOTHING = 0.1  # added to each class's count, as no published share may be zero
_SAFE_PATH = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}")


class OtherFormat(ValueError):
    """The manifest has another format, and so other fields."""


class Provenance(Closed):
    """The source of the weights and their licence."""

    source: str
    licence: str
    checkpoint_sha256: Sha256
    recipe: str  # the command that made the bundle, and its version


class Task(Closed):
    """Sizes of the model's input and outputs."""

    classes: PositiveInt
    features: PositiveInt
    height: PositiveInt
    width: PositiveInt


class Calibration(Closed):
    """How logits become probabilities: softmax(logits / temperature)."""

    fitted: bool
    temperature: float = Field(gt=0)
    samples: NonNegativeInt = 0
    ece_before: float | None = None
    ece_after: float | None = None
    ece_noise_floor: float | None = None
    note: str = ""


class MahalanobisFit(Closed):
    """How the distance in the graph was fitted."""

    features: Literal["l2-normalised", "raw"]
    relative: bool = False  # minus the distance to the background of all images (Ren et al. 2021)
    covariance: Literal["tied", "spherical"]
    means: Literal["class-means", "classifier-weights"]
    shrinkage: float | None = Field(default=None, ge=0, le=1)  # of the covariance towards a sphere
    samples: NonNegativeInt = 0  # training images for means and covariance
    # Of the subspace that is whitened; absent if all directions are.
    rank: PositiveInt | None = Field(default=None, exclude_if=lambda rank: rank is None)


class GateFit(Closed):
    """The gate's calibration: its scores, its data, its model and its guarantee."""

    scores: tuple[ScoreName, ...]  # the columns of the graph's `scores`
    combination: tuple[ScoreName, ...]  # those that decide: the sum of their −log p
    # The criterion of each candidate combination (names joined by " + "); empty if none was chosen.
    candidates: dict[str, Unit] = Field(default={})
    energy_temperature: float = Field(gt=0)
    mahalanobis: MahalanobisFit
    guarantee: Literal["marginal", "pac"]
    guarantee_delta: Alpha | None = None  # pac: the probability that the guarantee fails
    alpha_reject: Alpha
    alpha_review: Alpha
    fold_a: PositiveInt
    fold_b: PositiveInt
    own_threshold: tuple[NonNegativeInt, ...] = ()  # classes calibrated on their own images
    # Per class: calibration images, predicted as it, that it lacks for a threshold of its own.
    # 0 for a class with one; empty if this was not computed.
    missing_images: tuple[NonNegativeInt, ...] = ()
    splits: dict[str, Sha256]  # split name → digest of its images' digests, disjoint by content
    calibrated_for_model: Sha256  # sha256 of model.onnx
    calibrated_for_preprocess: Sha256
    # Of int8 on a CPU, if it is not ONNX Runtime, whose numbers differ.
    calibrated_for_engine: Literal["openvino"] | None = Field(
        default=None, exclude_if=lambda engine: engine is None
    )

    @model_validator(mode="after")
    def _alphas_have_the_data(self) -> Self:
        if self.alpha_reject > self.alpha_review:
            raise ValueError("alpha_reject must not be above alpha_review")
        if (self.guarantee == "pac") != (self.guarantee_delta is not None):
            raise ValueError("guarantee_delta is required for a pac guarantee, and only for it")
        need = sample_size_for(self.alpha_reject, self.guarantee_delta)
        if min(self.fold_a, self.fold_b) < need:
            raise ValueError(
                f"alpha_reject {self.alpha_reject} needs at least {need} images in each fold, "
                f"not {min(self.fold_a, self.fold_b)}"
            )
        if self.scores[:2] != (ENERGY, MAHALANOBIS) or len(set(self.scores)) < len(self.scores):
            raise ValueError("scores must be energy, mahalanobis and others, without duplicates")
        if not self.combination or not set(self.combination) <= set(self.scores):
            raise ValueError("combination must name some of the scores")
        if list(self.own_threshold) != sorted(set(self.own_threshold)):
            raise ValueError("own_threshold must be ascending without duplicates")
        return self


class Histogram(Closed):
    """Counts between ascending edges; the first and the last bin are unbounded."""

    edges: tuple[float, ...]  # n − 1 inner edges
    counts: tuple[NonNegativeInt, ...]  # n

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.counts) != len(self.edges) + 1 or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("a histogram needs ascending edges and one more count than edges")
        return self


class ReferenceFit(Closed):
    """Distributions on held-out images, the reference for drift."""

    class_counts: tuple[NonNegativeInt, ...]  # images predicted as each class
    # confidence, the gate's scores, and the input statistics (service.drift.reference.INPUTS)
    histograms: dict[str, Histogram] = Field(default={})
    note: str = ""

    @property
    def samples(self) -> int:
        """Return the number of images."""
        return sum(self.class_counts)

    @property
    def class_fraction(self) -> tuple[float, ...]:
        """Return the share of each class, smoothed so that none is zero."""
        total = self.samples + SMOOTHING * len(self.class_counts)
        return tuple((count + SMOOTHING) / total for count in self.class_counts)

    @model_validator(mode="after")
    def _has_images(self) -> Self:
        if self.samples == 0:
            raise ValueError("class_counts must count at least one image")
        return self


class EngineHints(Closed):
    """Batch sizes to measure at warm-up; the service may use fewer."""

    buckets: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16, 32)

    @model_validator(mode="after")
    def _ascending_from_one(self) -> Self:
        if self.buckets[:1] != (1,) or list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError("buckets must start at 1 and ascend")
        return self


class File(Closed):
    """Size and digest of one file of the bundle."""

    bytes: NonNegativeInt
    sha256: Sha256


class Manifest(Closed):
    """manifest.json. Its digest covers every field, and through `files` every other file."""

    format: Literal["tidegate-bundle/3"] = FORMAT
    name: Slug
    version: Slug
    provenance: Provenance
    task: Task
    preprocess: PreprocessSpec
    calibration: Calibration
    gate: GateFit
    reference: ReferenceFit
    engine: EngineHints = EngineHints()
    precision: Precision = "fp32"  # of the backbone; the gate is fp32
    parity: Parity | None = None
    evaluation: Evaluation | None = None
    coverage: Coverage | None = None
    comparison: Comparison | None = None  # of a variant, with fp32
    files: dict[str, File]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if (self.task.height, self.task.width) != self.preprocess.output_size:
            raise ValueError("preprocess.output_size differs from the task's height and width")
        if len(self.reference.class_counts) != self.task.classes:
            raise ValueError("class_counts must contain one value per class")
        if bad := [c for c in self.gate.own_threshold if c >= self.task.classes]:
            raise ValueError(
                f"own_threshold contains class {bad[0]}, but there are {self.task.classes} classes"
            )
        if len(self.gate.missing_images) not in (0, self.task.classes):
            raise ValueError("missing_images must have one number per class")
        model = self.files.get("model.onnx")
        if model is None or self.gate.calibrated_for_model != model.sha256:
            raise ValueError("the gate was calibrated for another model")
        if self.gate.calibrated_for_preprocess != self.preprocess.digest:
            raise ValueError("the gate was calibrated for another preprocessing")
        if unsafe := [name for name in self.files if not _SAFE_PATH.fullmatch(name)]:
            raise ValueError(f"unsafe file name {unsafe[0]!r}")
        return self

    @property
    def digest(self) -> str:
        """Sha256 of the canonical manifest: the bundle's identity."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_file(self) -> bytes:
        """Return manifest.json: the fields and their digest, in the only accepted form."""
        fields = {"digest": self.digest, **self.model_dump(mode="json")}
        return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_file(cls, content: bytes) -> Manifest:
        """Parse manifest.json. Raises ValueError if it is not exactly what was sealed.

        Raises OtherFormat for a bundle of another release.
        """
        fields = json.loads(content)
        if not isinstance(fields, dict):
            raise ValueError("not a JSON object")
        if (found := fields.get("format", FORMAT)) != FORMAT:
            raise OtherFormat(f"its format is {found!r}, and this release opens only {FORMAT!r}")
        sealed = fields.pop("digest", None)
        manifest = cls.model_validate_json(json.dumps(fields))
        if manifest.digest != sealed or manifest.to_file() != content:
            raise ValueError("the content does not match its digest")
        return manifest
