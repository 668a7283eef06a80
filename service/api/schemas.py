"""The response bodies of the API, for encoding and for OpenAPI."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from tidegate.service.api.parameters import USUAL, FeatureForm, Wanted
from tidegate.service.bundle.evidence import Coverage, Parity
from tidegate.service.bundle.manifest import Calibration, GateFit, Manifest
from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import Catalog
from tidegate.service.engines.base import EngineInfo
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.pipeline import Classification
from tidegate.service.types import ENERGY, MAHALANOBIS, Decision, Float32


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
    slots: int
    threads_per_slot: int
    max_batch_size: int


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


def model_ref(bundle: Bundle) -> ModelRef:
    """Return the name, version and digest of a bundle."""
    return ModelRef(
        name=bundle.manifest.name, version=bundle.manifest.version, digest=bundle.digest
    )


def model_fields(bundle: Bundle) -> dict[str, str]:
    """Return the same as a dict, which is shared and must not be changed."""
    return _model_fields(bundle.manifest.name, bundle.manifest.version, bundle.digest)


@lru_cache(maxsize=100)
def _model_fields(name: str, version: str, digest: str) -> dict[str, str]:
    return {"name": name, "version": version, "digest": digest}


def models_body(catalog: Catalog) -> ModelsBody:
    """List the versions that are served, the default one first, and those that were refused."""
    versions = [
        VersionBody(
            **model_ref(served.bundle).model_dump(),
            aliases=sorted(alias for alias, v in model.aliases.items() if v == version),
            is_default=model.name == catalog.default and served is model.stable,
        )
        for model in catalog.models.values()
        for version, served in model.versions.items()
    ]
    return ModelsBody(
        models=sorted(versions, key=lambda one: (not one.is_default, one.name, one.version)),
        refused=[
            RefusedBody(name=model.name, version=version, reason=reason)
            for model in catalog.models.values()
            for version, reason in model.refused.items()
        ],
    )


def model_body(bundle: Bundle, info: EngineInfo, slots: int, max_batch_size: int) -> ModelBody:
    """Describe a bundle and the engine it runs on."""
    manifest: Manifest = bundle.manifest
    return ModelBody(
        name=manifest.name,
        version=manifest.version,
        digest=bundle.digest,
        preprocess_digest=manifest.preprocess.digest,
        classes=manifest.task.classes,
        labels=list(bundle.labels),
        source=manifest.provenance.source,
        licence=manifest.provenance.licence,
        preprocess=manifest.preprocess,
        parity=manifest.parity,
        calibration=manifest.calibration,
        gate=manifest.gate.model_copy(update={"missing_images": ()}),
        shared_threshold=_shared_threshold(bundle),
        coverage=manifest.coverage,
        reference_samples=manifest.reference.samples,
        engine=EngineBody(
            name=info.name,
            runtime=info.runtime,
            device=info.device,
            precision=info.precision,
            slots=slots,
            threads_per_slot=info.threads_per_slot,
            max_batch_size=max_batch_size,
        ),
    )


def _shared_threshold(bundle: Bundle) -> SharedThresholdBody | None:
    missing = bundle.manifest.gate.missing_images
    if not missing:
        return None
    sharing = sorted((images, class_id) for class_id, images in enumerate(missing) if images)
    return SharedThresholdBody(
        classes=len(sharing),
        first=[
            MissingImagesBody(class_id=c, label=bundle.labels[c], images=images)
            for images, c in sharing[:MAX_CLASSES_NAMED]
        ],
    )


# Answers to images are plain dicts, because a dozen pydantic models per answer would cost time.
# They have the fields of the models above, which OpenAPI shows; a test checks that they match.


def ood_body(result: Classification, bundle: Bundle) -> dict[str, Any]:
    """Return the gate's result for one image, with the fields of OodBody."""
    verdict, gate = result.verdict, bundle.gate
    scores, p_values = result.scores, verdict.score_p_values
    return {
        "p_value": verdict.p_value,
        "percentile": verdict.percentile,
        "alpha_reject": gate.alpha_reject,
        "alpha_review": gate.alpha_review,
        "calibration_size": verdict.calibration_size,
        "energy": {"score": scores[ENERGY], "p_value": p_values[ENERGY]},
        "mahalanobis": {
            "score": scores[MAHALANOBIS],
            "p_value": p_values[MAHALANOBIS],
            "nearest_class": result.nearest_class,
        },
        "decided_by": [
            {"name": name, "score": scores[name], "p_value": p_values[name]}
            for name in gate.combination
        ],
    }


def classify_body(
    result: Classification, bundle: Bundle, request_id: str, wanted: Wanted = USUAL
) -> dict[str, Any]:
    """Return the answer for one image, with the fields of ClassifyBody."""
    timing = result.timing
    body = {
        "request_id": request_id,
        "model": model_fields(bundle),
        "decision": result.verdict.decision,
        "predictions": [
            {"class_id": p.class_id, "label": p.label, "probability": p.probability}
            for p in result.predictions
            if p.probability >= wanted.min_probability
        ],
        "ood": ood_body(result, bundle),
        "timing_ms": {
            "decode": _ms(timing.decode),
            "queue": _ms(timing.queue),
            "engine": _ms(timing.engine),
            "total": _ms(timing.total),
        },
        "batch_size": result.batch_size,
    }
    if result.features is not None:
        body["features"] = _features(result.features, wanted.features)
    return body


def _features(features: Float32, form: FeatureForm) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(features.astype("<f4").tobytes()).decode("ascii")
    values: list[float] = features.tolist()
    return values


def as_json(body: dict[str, Any] | Sequence[dict[str, Any]]) -> bytes:
    """Return a body as JSON; NaN and infinity become null."""
    return to_json(body, inf_nan_mode="null")


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


EXAMPLE_SHA = "9f2c4a1b" * 8
EXAMPLE_OOD: dict[str, Any] = {
    "p_value": 0.741,
    "percentile": 26.0,
    "alpha_reject": 0.01,
    "alpha_review": 0.05,
    "calibration_size": 349,
    "energy": {"score": -8.3, "p_value": 0.61},
    "mahalanobis": {"score": 1.32, "p_value": 0.83, "nearest_class": 285},
    "decided_by": [{"name": "mahalanobis", "score": 1.32, "p_value": 0.83}],
}
EXAMPLE_MODEL = {"name": "efficientnet-lite0", "version": "1", "digest": EXAMPLE_SHA}
EXAMPLE_ANSWER: dict[str, Any] = {
    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "model": EXAMPLE_MODEL,
    "decision": "accept",
    "predictions": [{"class_id": 285, "label": "Egyptian cat", "probability": 0.39}],
    "ood": EXAMPLE_OOD,
    "timing_ms": {"decode": 2.1, "queue": 0.4, "engine": 6.2, "total": 8.7},
    "batch_size": 1,
}
EXAMPLE_REFUSAL: dict[str, Any] = {
    "type": "urn:tidegate:problem:out-of-distribution",
    "title": "Image is out of distribution",
    "status": 422,
    "detail": "p = 0.004975 is at most alpha_reject = 0.01.",
    "code": "out-of-distribution",
    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "model": EXAMPLE_MODEL,
    "ood": {
        **EXAMPLE_OOD,
        "p_value": 0.004975,
        "percentile": 100.0,
        "energy": {"score": -4.84, "p_value": 0.015},
        "mahalanobis": {"score": 1.67, "p_value": 0.0021, "nearest_class": 429},
        "decided_by": [{"name": "mahalanobis", "score": 1.67, "p_value": 0.0021}],
    },
}
