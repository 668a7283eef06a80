"""The drift dashboard: Prometheus's rules over all replicas, and each replica's own monitors."""

from panels import MODEL, REPLICA_MODEL, Board, Panel, Query, Row, recorded

_SHARE_MOVED = (
    f"tidegate:class_fraction:ratio$window{{{MODEL}}} - on (job, model, version, digest, class) "
    f"tidegate:class_reference:samples{{{MODEL}}} / on (job, model, version, digest) group_left () "
    f"tidegate:reference_samples:max{{{MODEL}}}"
)

BOARD = Board(
    "tidegate-drift",
    "Tidegate: drift",
    "Differences between the incoming images and the calibration set: over the window for all "
    "replicas together, and from each replica's own monitors.",
    ["instance", "model", "version", "window"],
    [
        Row(
            "Class mix over the window",
            [
                Panel(
                    "Significance (z)",
                    "Normal with standard deviation 1 without drift. TidegateClassMixDrift fires "
                    "above 5 if the effect is unusual, too. No value below a hundred images, after "
                    "division by the dispersion.",
                    [recorded("tidegate:class_mix:z$window")],
                    limit=5,
                ),
                Panel(
                    "Effect",
                    "χ² per image, minus its noise. TidegateClassMixDrift fires if it is 0.15 "
                    "above the usual one.",
                    [
                        recorded("tidegate:class_mix:effect$window", "effect"),
                        recorded("tidegate:class_mix:effect_usual$window", "usual"),
                    ],
                ),
                Panel(
                    "Dispersion",
                    "How many images of a run count as much as an independent one, measured "
                    "between neighbouring windows of the last week. 1 if images are independent, 8 "
                    "or 32 until it is known.",
                    [
                        recorded("tidegate:class_mix:dispersion$window", "classes"),
                        recorded("tidegate:ood_rate:dispersion$window", "{{threshold}}"),
                    ],
                    limit=64,
                ),
                Panel(
                    "Population stability index",
                    "PSI, the part that noise causes at this number of images, and the difference.",
                    [
                        recorded("tidegate:class_mix:psi$window", "PSI"),
                        recorded("tidegate:class_mix:psi_noise$window", "noise"),
                        recorded("tidegate:class_mix:psi_excess$window", "excess"),
                    ],
                    width=12,
                ),
                Panel(
                    "Distances",
                    "Total variation is the share of the predictions that moved; the "
                    "Jensen–Shannon divergence is in nats. Both include noise.",
                    [
                        recorded("tidegate:class_mix:total_variation$window", "total variation"),
                        recorded("tidegate:class_mix:jensen_shannon$window", "Jensen–Shannon"),
                    ],
                    width=12,
                ),
                Panel(
                    "Classes that gained",
                    "Share of the predictions minus share of the reference, by class id.",
                    [Query(f"topk(10, {_SHARE_MOVED})", "{{class}} {{version}}")],
                    "percentunit",
                    width=12,
                ),
                Panel(
                    "Classes that lost",
                    "Share of the predictions minus share of the reference: the lowest values.",
                    [Query(f"bottomk(10, {_SHARE_MOVED})", "{{class}} {{version}}")],
                    "percentunit",
                    width=12,
                ),
            ],
        ),
        Row(
            "Confidence and gate over the window",
            [
                Panel(
                    "Rejected and flagged",
                    "Shares of the images, with the alphas as the expected shares.",
                    [
                        recorded("tidegate:ood_rate:ratio$window", "{{threshold}}"),
                        recorded("tidegate:ood_alpha:max", "alpha {{threshold}}"),
                    ],
                    "percentunit",
                ),
                Panel(
                    "Significance of the excess (z)",
                    "Measured shares against the alphas, including the alphas' calibration error.",
                    [recorded("tidegate:ood_rate:z$window", "{{threshold}}")],
                    limit=5,
                ),
                Panel(
                    "Confidences",
                    "Kolmogorov–Smirnov distance from the reference. TidegateConfidenceShift fires "
                    "above 0.1. No value if the bundle contains no confidences.",
                    [recorded("tidegate:confidence:ks$window")],
                    limit=0.1,
                ),
                Panel(
                    "Share up to a confidence",
                    "Share of the answers with at most that confidence, and of the reference.",
                    [
                        Query(
                            f'tidegate:confidence:ratio$window{{{MODEL},le=~"0[.]5|0[.]9"}}',
                            "at most {{le}} {{version}}",
                        ),
                        Query(
                            "max by (version, digest, le) (tidegate_reference_confidence_ratio"
                            f'{{{MODEL},le=~"0[.]5|0[.]9"}})',
                            "reference {{le}} {{version}}",
                        ),
                    ],
                    "percentunit",
                ),
                Panel(
                    "Images in the window",
                    "Predictions in the window, and images of the reference.",
                    [
                        recorded("tidegate:predictions:increase$window", "predictions"),
                        recorded("tidegate:reference_samples:max", "reference"),
                    ],
                ),
                Panel(
                    "Digests",
                    "Replicas by served digest. More than one digest is a rollout, or "
                    "TidegateVersionReused.",
                    [
                        Query(
                            f"count by (version, digest) (tidegate_model_info{{{MODEL}}})",
                            "{{version}} {{digest}}",
                        )
                    ],
                ),
            ],
        ),
        Row(
            "Each replica's own monitors",
            [
                Panel(
                    "Alarms",
                    "TidegateDriftMonitor fires after a minute. `GET /drift` on the replica "
                    "returns details.",
                    [
                        Query(
                            "max by (monitor, version, digest) "
                            f"(tidegate_drift_alarm{{{REPLICA_MODEL}}})",
                            "{{monitor}} {{version}}",
                        )
                    ],
                    kind="stacked",
                ),
                Panel(
                    "Evidence of the detectors",
                    "Divided by the threshold: 1 raises an alarm. Without drift this happens at "
                    "most once in TIDEGATE_DRIFT_RUN_LENGTH images on average.",
                    [
                        Query(
                            f"tidegate_drift_evidence_ratio{{{REPLICA_MODEL}}}",
                            "{{monitor}} {{instance}}",
                        )
                    ],
                    limit=1,
                ),
                Panel(
                    "Design effect",
                    "Images that count as much as one independent image, as each replica has "
                    "learned. At 64 the runs are too long, and alarms may be false.",
                    [
                        Query(
                            f"tidegate_drift_design_effect_ratio{{{REPLICA_MODEL}}}",
                            "{{monitor}} {{instance}}",
                        )
                    ],
                    limit=64,
                ),
                Panel(
                    "What was learned",
                    "Days from which the usual variation was learned, complete from 7 on, and "
                    "images that were not counted as nearly the same one was just counted.",
                    [
                        Query(
                            f"tidegate_drift_learned_days{{{REPLICA_MODEL}}}", "days {{instance}}"
                        ),
                        Query(
                            f"rate(tidegate_drift_near_duplicates_total{{{REPLICA_MODEL}}}[5m])",
                            "near-duplicates per second {{instance}}",
                        ),
                    ],
                ),
                Panel(
                    "Histograms and the embedding (z)",
                    "Recent images against the reference.",
                    [
                        Query(
                            "max by (monitor, version, digest) "
                            f"(tidegate_drift_z{{{REPLICA_MODEL}}})",
                            "{{monitor}} {{version}}",
                        )
                    ],
                    limit=5,
                ),
                Panel(
                    "Effect of the histograms",
                    "Population stability index minus its noise.",
                    [
                        Query(
                            "max by (monitor, version, digest) "
                            f"(tidegate_drift_psi_excess{{{REPLICA_MODEL}}})",
                            "{{monitor}} {{version}}",
                        )
                    ],
                    limit=0.1,
                ),
                Panel(
                    "Effect of the embedding",
                    "Distance that the mean of the features has moved, in standard deviations of "
                    "one image.",
                    [
                        Query(
                            f"tidegate_drift_embedding_distance{{{REPLICA_MODEL}}}", "{{instance}}"
                        )
                    ],
                    limit=0.5,
                    width=12,
                ),
                Panel(
                    "Label-shift residual (z)",
                    "Small: a changed mix of the known classes explains the drift. Large: no mix "
                    "explains it.",
                    [
                        Query(
                            f"tidegate_drift_label_shift_residual_z{{{REPLICA_MODEL}}}",
                            "{{instance}}",
                        )
                    ],
                    limit=5,
                    width=12,
                ),
                Panel(
                    "Estimated mix of the true classes",
                    "The ten largest shares, by class id, estimated from the bundle's confusion "
                    "matrix.",
                    [
                        Query(
                            "topk(10, avg by (class, version, digest) "
                            f"(tidegate_drift_label_shift_fraction{{{REPLICA_MODEL}}}))",
                            "{{class}} {{version}}",
                        )
                    ],
                    "percentunit",
                    width=24,
                ),
            ],
        ),
    ],
)
