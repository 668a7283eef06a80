"""Makes the response bodies that `schemas.py` describes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import to_json

from tidegate.service.api.parameters import USUAL, FeatureForm, Wanted
from tidegate.service.api.schemas import (
    MAX_CLASSES_NAMED,
    EngineBody,
    MissingImagesBody,
    ModelBody,
    ModelRef,
    ModelsBody,
    RefusedBody,
    SharedThresholdBody,
    VersionBody,
)
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import Catalog
from tidegate.service.engines.base import EngineInfo
from tidegate.service.pipeline import Classification
from tidegate.service.types import ENERGY, MAHALANOBIS, Float32


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


def model_body(
    bundle: Bundle,
    info: EngineInfo,
    slots: int,
    max_batch_size: int,
    unmeasured: Sequence[str] = (),
) -> ModelBody:
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
            instructions=info.instructions,
            slots=slots,
            threads_per_slot=info.threads_per_slot,
            max_batch_size=max_batch_size,
            unmeasured=list(unmeasured),
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
# They have the fields of the models in `schemas.py`; a test checks that they match.


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
