"""Examples of answers, for OpenAPI."""

from typing import Any

SHA = "9f2c4a1b" * 8
OOD: dict[str, Any] = {
    "p_value": 0.741,
    "percentile": 26.0,
    "alpha_reject": 0.01,
    "alpha_review": 0.05,
    "calibration_size": 349,
    "energy": {"score": -8.3, "p_value": 0.61},
    "mahalanobis": {"score": 1.32, "p_value": 0.83, "nearest_class": 285},
    "decided_by": [{"name": "mahalanobis", "score": 1.32, "p_value": 0.83}],
}
MODEL = {"name": "efficientnet-lite0", "version": "1", "digest": SHA}
ANSWER: dict[str, Any] = {
    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "model": MODEL,
    "decision": "accept",
    "predictions": [{"class_id": 285, "label": "Egyptian cat", "probability": 0.39}],
    "ood": OOD,
    "timing_ms": {"decode": 2.1, "queue": 0.4, "engine": 6.2, "total": 8.7},
    "batch_size": 1,
}
REFUSAL: dict[str, Any] = {
    "type": "urn:tidegate:problem:out-of-distribution",
    "title": "Image is out of distribution",
    "status": 422,
    "detail": "p = 0.004975 is at most alpha_reject = 0.01.",
    "code": "out-of-distribution",
    "request_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "model": MODEL,
    "ood": {
        **OOD,
        "p_value": 0.004975,
        "percentile": 100.0,
        "energy": {"score": -4.84, "p_value": 0.015},
        "mahalanobis": {"score": 1.67, "p_value": 0.0021, "nearest_class": 429},
        "decided_by": [{"name": "mahalanobis", "score": 1.67, "p_value": 0.0021}],
    },
}
