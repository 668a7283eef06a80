"""Drift: over all replicas in Prometheus, and by each replica itself."""

from panels import MODEL, REPLICA_MODEL, Board, Panel, Query, Row, recorded

_SHARE_MOVED = (
    f"tidegate:class_fraction:ratio$window{{{MODEL}}} - on (job, model, version, class) "
    f"tidegate:class_reference:samples{{{MODEL}}} / on (job, model, version) group_left () "
    f"tidegate:reference_samples:max{{{MODEL}}}"
)

BOARD = Board(
    "tidegate-drift",
    "Tidegate: drift",
    "Does what arrives differ from what the model was calibrated on? Over the window, all replicas "
    "together; and what each replica's own monitors say.",
    ["instance", "model", "window"],
    [
        Row(
            "The class mix, over the window",
            [
                Panel(
                    "Evidence (z)",
                    "Normal with spread 1 while nothing drifts; TidegateClassMixDrift asks for 5 "
                    "and an effect of 0.1. None below a hundred images.",
                    [recorded("tidegate:class_mix:z$window")],
                    limit=5,
                ),
                Panel(
                    "Effect",
                    "χ² by image, less noise: a fifth of the mass moved is 0.16 or more.",
                    [recorded("tidegate:class_mix:effect$window")],
                    limit=0.1,
                ),
                Panel(
                    "Population stability index",
                    "With what noise alone gives at this many images, and the rest.",
                    [
                        recorded("tidegate:class_mix:psi$window", "PSI"),
                        recorded("tidegate:class_mix:psi_noise$window", "noise"),
                        recorded("tidegate:class_mix:psi_excess$window", "excess"),
                    ],
                ),
                Panel(
                    "Distances",
                    "Total variation is the share of the mass that moved; Jensen and Shannon's "
                    "divergence is in nats. Noise is in both.",
                    [
                        recorded("tidegate:class_mix:total_variation$window", "total variation"),
                        recorded("tidegate:class_mix:jensen_shannon$window", "Jensen–Shannon"),
                    ],
                ),
                Panel(
                    "Classes that gained",
                    "Share of the predictions less share of the reference, by class id.",
                    [Query(f"topk(10, {_SHARE_MOVED})", "{{class}}")],
                    "percentunit",
                ),
                Panel(
                    "Classes that lost",
                    "The same, from the other end.",
                    [Query(f"bottomk(10, {_SHARE_MOVED})", "{{class}}")],
                    "percentunit",
                ),
            ],
        ),
        Row(
            "Confidence and the gate, over the window",
            [
                Panel(
                    "Rejected and marked",
                    "Shares of the images, beside the alphas that were promised.",
                    [
                        recorded("tidegate:ood_rate:ratio$window", "{{threshold}}"),
                        recorded("tidegate:ood_alpha:max", "alpha {{threshold}}"),
                    ],
                    "percentunit",
                ),
                Panel(
                    "Evidence of too many (z)",
                    "Against the alphas as well as calibration knew them.",
                    [recorded("tidegate:ood_rate:z$window", "{{threshold}}")],
                    limit=5,
                ),
                Panel(
                    "Confidences",
                    "Kolmogorov–Smirnov distance from the reference's; TidegateConfidenceShift "
                    "from 0.1 on. None where the bundle seals no confidences.",
                    [recorded("tidegate:confidence:ks$window")],
                    limit=0.1,
                ),
                Panel(
                    "How sure",
                    "Share of the answers with at most that confidence, beside the reference's.",
                    [
                        Query(
                            f'tidegate:confidence:ratio$window{{{MODEL},le=~"0[.]5|0[.]9"}}',
                            "at most {{le}}",
                        ),
                        Query(
                            "max by (version, le) (tidegate_reference_confidence_ratio"
                            f'{{{MODEL},le=~"0[.]5|0[.]9"}})',
                            "reference {{le}}",
                        ),
                    ],
                    "percentunit",
                ),
                Panel(
                    "Images in the window",
                    "Answered, and the reference they are held against.",
                    [
                        recorded("tidegate:predictions:increase$window", "predictions"),
                        recorded("tidegate:reference_samples:max", "reference"),
                    ],
                ),
                Panel(
                    "Digests",
                    "Replicas by the digest they serve: more than one is a rollout, or a fault.",
                    [Query(f"count by (digest) (tidegate_model_info{{{MODEL}}})", "{{digest}}")],
                ),
            ],
        ),
        Row(
            "Each replica's own monitors",
            [
                Panel(
                    "Alarms",
                    "TidegateDriftMonitor after a minute. `GET /drift` on the replica says more.",
                    [
                        Query(
                            f"max by (monitor) (tidegate_drift_alarm{{{REPLICA_MODEL}}})",
                            "{{monitor}}",
                        )
                    ],
                    kind="stacked",
                ),
                Panel(
                    "Evidence of the detectors",
                    "Over its threshold: 1 alarms, once in TIDEGATE_DRIFT_RUN_LENGTH images or "
                    "more seldom while nothing drifts.",
                    [
                        Query(
                            f"tidegate_drift_evidence_ratio{{{REPLICA_MODEL}}}",
                            "{{monitor}} {{instance}}",
                        )
                    ],
                    limit=1,
                ),
                Panel(
                    "Histograms and the embedding (z)",
                    "Of recent images against the reference.",
                    [
                        Query(
                            f"max by (monitor) (tidegate_drift_z{{{REPLICA_MODEL}}})",
                            "{{monitor}}",
                        )
                    ],
                    limit=5,
                ),
                Panel(
                    "Histograms' effect",
                    "Population stability index less its noise.",
                    [
                        Query(
                            f"max by (monitor) (tidegate_drift_psi_excess{{{REPLICA_MODEL}}})",
                            "{{monitor}}",
                        )
                    ],
                    limit=0.1,
                ),
                Panel(
                    "Embedding's effect",
                    "How far the features' mean has moved, in standard deviations of one image.",
                    [
                        Query(
                            f"tidegate_drift_embedding_distance{{{REPLICA_MODEL}}}", "{{instance}}"
                        )
                    ],
                    limit=0.5,
                ),
                Panel(
                    "Explained by the mix of classes?",
                    "Small: the mix has changed. Large: no mix of the known classes explains it.",
                    [
                        Query(
                            f"tidegate_drift_label_shift_residual_z{{{REPLICA_MODEL}}}",
                            "{{instance}}",
                        )
                    ],
                    limit=5,
                ),
                Panel(
                    "Estimated mix of the true classes",
                    "The largest, by class id; an estimate from the sealed confusion matrix.",
                    [
                        Query(
                            "topk(10, avg by (class) "
                            f"(tidegate_drift_label_shift_fraction{{{REPLICA_MODEL}}}))",
                            "{{class}}",
                        )
                    ],
                    "percentunit",
                    width=24,
                ),
            ],
        ),
    ],
)
