"""Name, help, labels and buckets of every metric. Base units, bounded labels."""

from __future__ import annotations

PREFIX = "tidegate_"
CLASSIFY_ROUTES = (
    "/classify",
    "/classify/batch",
    "/models/{name}/classify",
    "/models/{name}/classify/batch",
    "/models/{name}/versions/{version}/classify",
    "/models/{name}/versions/{version}/classify/batch",
)
ROUTES = (
    *CLASSIFY_ROUTES,
    "/preprocess",
    "/explain",
    "/models/{name}/preprocess",
    "/models/{name}/explain",
    "/models/{name}/versions/{version}/preprocess",
    "/models/{name}/versions/{version}/explain",
    "/models/{name}/calibration",
    "/models/{name}/versions/{version}/calibration",
    "/page/{file}",
    "/models",
    "/models/{name}",
    "/models/{name}/rollout",
    "/models/{name}/versions/{version}",
    "/models/{name}/versions/{version}/drift",
    "/admin/reload",
    "/admin/models/{name}/promote",
    "/admin/models/{name}/rollback",
    "/drift",
    "/feedback",
    "/livez",
    "/readyz",
    "/metrics",
    "/",
    "other",
    "malformed",
)
STAGES = ("read", "decode", "queue", "engine", "gates")
DECISIONS = ("accept", "review", "reject")
SHED_REASONS = (
    "client-connections",
    "client-share",
    "draining",
    "model-share",
    "queue-full",
    "upload-bytes",
    "predicted-late",
    "infeasible-deadline",
    "early-drop",
    "deadline",
    "client-gone",
    "device-memory",
)
BATCH_PARTS = ("copy_in", "compute", "copy_out")
REVIEW_OUTCOMES = ("stored", "over-rate", "disk-busy", "failed")
SHADOW_OUTCOMES = ("compared", "dropped", "failed")
ROLLOUT_STEPS = ("promote", "promote-shadow", "rollback")
TRACE_OUTCOMES = ("exported", "dropped", "failed")
RELOAD_OUTCOMES = ("loaded", "unchanged", "refused", "unloaded")
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# fmt: off
STAGE_BUCKETS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5,
)
P_VALUE_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
)
# fmt: on
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
CONFIDENCE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

# With the digest, because two bundles may have one name and version.
MODEL = ("model", "version", "digest")
MODEL_INFO = ("preprocess_digest", "engine", "precision", "device", "instructions")
MONITOR = (*MODEL, "monitor")

COUNTERS = {
    "requests": ("HTTP requests answered, by status.", ("route", "status")),
    "client_requests": (
        "HTTP requests answered for each client with an API key, by status.",
        ("client", "status"),
    ),
    "shed": ("Images refused or dropped, by reason.", ("reason",)),
    "slot_busy_seconds": ("Time engine slots spent running batches, summed over slots.", ()),
    "review_images": ("Images selected for review, by outcome.", ("outcome",)),
    "feedback": (
        "Answers with feedback, by whether the predicted class was correct.",
        (*MODEL, "correct"),
    ),
    "feedback_probability": (
        "Sum of the predicted classes' probabilities over answers with feedback: "
        "the expected number of correct predictions.",
        MODEL,
    ),
    "shadow_images": (
        "Images that a shadow was to compute again, by outcome.",
        ("model", "outcome"),
    ),
    "rollout_steps": (
        "Canaries and shadows that were promoted, and versions that were rolled back.",
        ("model", "step"),
    ),
    "reload": ("Reloads of a model, by outcome.", ("model", "outcome")),
    "log_lines_dropped": ("Log lines dropped because stderr was not read in time.", ()),
    "audit_lines_dropped": ("Lines of the audit log dropped because they were not written.", ()),
    "log_lines_left_out": (
        "Successful requests that were not logged, because of TIDEGATE_LOG_SHARE.",
        (),
    ),
    "front_ends_replaced": ("Front-end processes that ended and were replaced.", ()),
    "traces": ("Traced requests, by what became of their spans.", ("outcome",)),
    "predictions": ("Images not rejected, by predicted class id.", (*MODEL, "class")),
    "ood_decisions": ("Decisions of the gate.", (*MODEL, "decision")),
    "drift_near_duplicates": (
        "Images that the drift monitors did not count, as nearly the same one was just counted.",
        MODEL,
    ),
}
HISTOGRAMS = {
    "request_duration_seconds": (
        "Time from the headers of a request to the last byte of its response.",
        ("route",),
        REQUEST_BUCKETS,
    ),
    "stage_duration_seconds": (
        "Time an answered image spent in each stage.",
        ("stage",),
        STAGE_BUCKETS,
    ),
    "batch_size": ("Images per batch run by the engine.", (), BATCH_BUCKETS),
    "batch_duration_seconds": (
        "Time of each part of a batch on a GPU, by the GPU's clock.",
        ("part",),
        STAGE_BUCKETS,
    ),
    "prediction_confidence": (
        "Probability of the predicted class, by class id; rare classes count as other.",
        (*MODEL, "class"),
        CONFIDENCE_BUCKETS,
    ),
    "ood_p_value": (
        "Final p-value of the gate; uniformly distributed without drift.",
        MODEL,
        P_VALUE_BUCKETS,
    ),
    "ood_score": (
        "Raw scores of the gate; bucket bounds are quantiles of the calibration scores.",
        (*MODEL, "score"),
        None,  # from the bundle
    ),
}
GAUGES = {
    "queue_depth": ("Images admitted and waiting for the engine.", ()),
    "inflight_requests": ("Requests in progress.", ()),
    "front_ends": ("Front-end processes that run; 0 if one process does everything.", ()),
    "configuration_refused": (
        "1 while the content of a file on disk is not usable and what was loaded before it is "
        "still in use: the API keys, or the TLS certificate.",
        ("file",),
    ),
    "build_info": ("The running version of Tidegate.", ("version",)),
    "model_info": (
        "The served model and the engine that runs it.",
        (*MODEL, *MODEL_INFO),
    ),
    "model_alias": (
        "1 for each alias of a served version: stable, canary, shadow and others.",
        (*MODEL, "alias"),
    ),
    "reference_class_fraction": (
        "Share of each class among predictions on the reference images, with the class's label.",
        (*MODEL, "class", "label"),
    ),
    "reference_samples": ("Number of reference images.", MODEL),
    "ood_calibration_samples": (
        "Number of calibration images for the final p-value.",
        MODEL,
    ),
    "ood_alpha": (
        "Threshold of the p-value: images at or below it are rejected or marked for review.",
        (*MODEL, "threshold"),
    ),
    "reference_confidence_ratio": (
        "Share of the reference images with a confidence of at most `le`, if the bundle has it.",
        (*MODEL, "le"),
    ),
    "drift_alarm": ("1 while the alarm of a drift monitor is active.", MONITOR),
    "drift_z": (
        "Standardised difference of recent images from the reference; "
        "standard normal without drift.",
        MONITOR,
    ),
    "drift_psi_excess": (
        "Population stability index of recent images minus its expected value from noise.",
        MONITOR,
    ),
    "drift_embedding_distance": (
        "Distance between the mean features of recent images and of the reference, "
        "in standard deviations of one image.",
        MODEL,
    ),
    "drift_evidence_ratio": (
        "Evidence of a detector divided by its threshold; its alarm starts at 1.",
        MONITOR,
    ),
    "drift_design_effect_ratio": (
        "Images that count as much as one independent image, as learned from the traffic.",
        MONITOR,
    ),
    "drift_learned_days": (
        "Days from which the drift monitors have learned the usual variation; complete from 7 on.",
        MODEL,
    ),
    "expected_accuracy_ratio": (
        "Estimated accuracy: the mean probability of recently predicted classes.",
        MODEL,
    ),
    "drift_label_shift_fraction": (
        "Estimated share of each true class, if the bundle has a confusion matrix.",
        (*MODEL, "class"),
    ),
    "drift_label_shift_residual_z": (
        "Part of the predicted classes that the estimated shares do not explain, standardised.",
        MODEL,
    ),
}
