"""The response bodies of the API, as OpenAPI describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tidegate.service.bundle.evidence import Coverage, Parity
from tidegate.service.bundle.manifest import Calibration, GateFit
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Decision


class Body(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")


class ModelRef(Body):
    """The model that produced the answer."""

    name: str = Field(examples=["efficientnet-lite0"])
    version: str = Field(examples=["1"])
    digest: str = Field(description="sha256 of the bundle's canonical manifest")


class PredictionBody(Body):
    """One class. Class ids are unique; labels may repeat."""

    class_id: int = Field(examples=[967])
    label: str = Field(examples=["espresso"])
    probability: float = Field(examples=[0.95])


MAX_CLASSES_NAMED = 20  # classes without a threshold of their own in the body of one model


class ScoreBody(Body):
    """One OOD score (higher is more unusual) and its p-value against fold A."""

    score: float
    p_value: float


class MahalanobisBody(ScoreBody):
    """The squared distance to the nearest class."""

    nearest_class: int


class DecidingScoreBody(ScoreBody):
    """One of the scores that decided: the final p-value is that of the sum of their −log p."""

    name: str


class OodBody(Body):
    """How typical the image is of the model's calibration images."""

    p_value: float = Field(
        description="share of calibration images that are at least as unusual; "
        "the image is rejected if it is at most alpha_reject"
    )
    percentile: float = Field(description="percentage of calibration images that are less unusual")
    alpha_reject: float
    alpha_review: float
    calibration_size: int
    energy: ScoreBody
    mahalanobis: MahalanobisBody
    decided_by: list[DecidingScoreBody] = Field(
        description="the scores that decided, as chosen when the bundle was made"
    )


class TimingBody(Body):
    """Milliseconds: decoding and preprocessing, all waiting, the engine's batch, and the total."""

    decode: float
    queue: float
    engine: float
    total: float


class ClassifyBody(Body):
    """The answer for one image."""

    request_id: str
    model: ModelRef
    decision: Decision
    predictions: list[PredictionBody]
    ood: OodBody
    timing_ms: TimingBody
    batch_size: int
    features: list[float] | str | None = Field(
        default=None,
        exclude_if=lambda features: features is None,
        description="only with features=true: the input of the last layer, a list of float32; with "
        "features=base64 their bytes, little-endian",
    )


class Problem(Body):
    """RFC 9457 problem details. `code` is the last part of `type`."""

    type: str = Field(examples=["urn:tidegate:problem:undecodable-image"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["undecodable-image"])
    request_id: str
    model: ModelRef | None = Field(None, description="only with out-of-distribution")
    ood: OodBody | None = Field(None, description="only with out-of-distribution")


class BatchItem(Body):
    """One image of a batch: either a result or a problem."""

    status: int = Field(description="the status that /classify would have returned")
    result: ClassifyBody | None = None
    problem: Problem | None = None


class BatchBody(Body):
    """One item per uploaded file, in the order of the upload."""

    request_id: str
    results: list[BatchItem]


class EngineBody(Body):
    """The engine that runs the model."""

    name: str
    runtime: str
    device: str
    precision: str
    instructions: str = Field(
        description="the instruction set and type of most of the work; empty if the runtime does "
        "not tell"
    )
    slots: int
    threads_per_slot: int
    max_batch_size: int
    unmeasured: list[str] = Field(
        description="what warm-up had no time to measure and the service therefore does not use"
    )


class MissingImagesBody(Body):
    """A class that shares its threshold, and the calibration images that it lacks for its own."""

    class_id: int
    label: str
    images: int = Field(description="further calibration images that are predicted as this class")


class SharedThresholdBody(Body):
    """The classes without a threshold of their own, for which the guarantee holds only together."""

    classes: int
    first: list[MissingImagesBody] = Field(
        description="those that lack fewest images; the model card lists more"
    )


class ModelBody(Body):
    """The model that is served, with the data its bundle was sealed with."""

    name: str
    version: str
    digest: str
    preprocess_digest: str
    classes: int
    labels: list[str] = Field(description="by class id")
    source: str
    licence: str
    preprocess: PreprocessSpec
    parity: Parity | None = Field(description="comparison with the library that trained the model")
    calibration: Calibration
    gate: GateFit = Field(description="without `missing_images`")
    shared_threshold: SharedThresholdBody | None = Field(
        description="null if the bundle does not say it, as one without thresholds per class"
    )
    coverage: Coverage | None = Field(description="what the gate catches, measured when built")
    reference_samples: int
    engine: EngineBody
    status: Literal["serving"] = "serving"


class VersionBody(ModelRef):
    """A version that is served, and the names that requests may use for it."""

    aliases: list[str] = Field(description="stable answers by default; others when asked for")
    is_default: bool = Field(description="whether it answers requests without a model's name")


class RefusedBody(Body):
    """A version that the last reload did not take."""

    name: str
    version: str
    reason: str


class ModelsBody(Body):
    """Every version that this process serves."""

    models: list[VersionBody]
    refused: list[RefusedBody] = Field(description="what the last reload did not take, and why")


class StatusBody(Body):
    """The response to a probe."""

    status: str = Field(examples=["ready"])
