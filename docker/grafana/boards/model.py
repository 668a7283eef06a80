"""The model dashboard: its answers, its gate, and its accuracy according to feedback."""

from panels import (
    RATE,
    REPLICA,
    REPLICA_MODEL,
    REPLICA_ROLLOUT,
    Board,
    Panel,
    Query,
    Row,
    heat,
    mean,
)

BOARD = Board(
    "tidegate-model",
    "Tidegate: model",
    "The served bundle, its answers, and its accuracy on answers with feedback.",
    ["instance", "model", "version"],
    [
        Row(
            "Served",
            [
                Panel(
                    "By replica",
                    "Every version that is named, with its engine.",
                    [Query(f"tidegate_model_info{{{REPLICA_MODEL}}}")],
                    kind="table",
                    width=24,
                )
            ],
        ),
        Row(
            "Rollout",
            [
                Panel(
                    "Replicas by alias",
                    "How many replicas give a version this name. TidegateReplicasDisagree fires if "
                    "they differ.",
                    [
                        Query(
                            "count by (alias, version, digest) "
                            f"(tidegate_model_alias{{{REPLICA_MODEL}}})",
                            "{{alias}} {{version}}",
                        )
                    ],
                ),
                Panel(
                    "Images by version",
                    "Answered per second, out-of-distribution ones included.",
                    [
                        Query(
                            "sum by (version, digest) "
                            f"(rate(tidegate_ood_decisions_total{{{REPLICA_MODEL}}}{RATE}))",
                            "{{version}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Rejected by version",
                    "Share of the images. The judge compares it between canary and stable.",
                    [
                        Query(
                            "sum by (version, digest) (rate(tidegate_ood_decisions_total"
                            f'{{{REPLICA_MODEL},decision="reject"}}{RATE}))'
                            " / (sum by (version, digest) "
                            f"(rate(tidegate_ood_decisions_total{{{REPLICA_MODEL}}}{RATE})) > 0)",
                            "{{version}}",
                        )
                    ],
                    "percentunit",
                ),
                Panel(
                    "Steps",
                    "Promotions and rollbacks of the last hour. TidegateRolledBack fires for "
                    "rollbacks. `GET /models/{name}/rollout` says why.",
                    [
                        Query(
                            "sum by (step) "
                            f"(increase(tidegate_rollout_steps_total{{{REPLICA_ROLLOUT}}}[1h]))",
                            "{{step}}",
                        )
                    ],
                    kind="stacked",
                ),
                Panel(
                    "Reloads",
                    "Of the last hour, by outcome. TidegateReloadRefused fires for refused ones.",
                    [
                        Query(
                            "sum by (outcome) "
                            f"(increase(tidegate_reload_total{{{REPLICA_ROLLOUT}}}[1h]))",
                            "{{outcome}}",
                        )
                    ],
                    kind="stacked",
                ),
                Panel(
                    "Images of the shadow",
                    "Compared, dropped because no slot was idle in time, and failed.",
                    [
                        Query(
                            "sum by (outcome) "
                            f"(rate(tidegate_shadow_images_total{{{REPLICA_ROLLOUT}}}{RATE}))",
                            "{{outcome}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
            ],
        ),
        Row(
            "Answers",
            [
                Panel(
                    "Decisions",
                    "accept, review (flagged) and reject (422).",
                    [
                        Query(
                            "sum by (decision) "
                            f"(rate(tidegate_ood_decisions_total{{{REPLICA_MODEL}}}{RATE}))",
                            "{{decision}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Most frequent classes",
                    "By class id, of the images that were not rejected.",
                    [
                        Query(
                            "topk(10, sum by (class) "
                            f"(rate(tidegate_predictions_total{{{REPLICA_MODEL}}}{RATE})))",
                            "{{class}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Confidence",
                    "Mean probability of the predicted class, and the accuracy that the "
                    "probabilities of the last two thousand images imply.",
                    [
                        Query(mean("tidegate_prediction_confidence", REPLICA_MODEL), "mean"),
                        Query(
                            f"avg(tidegate_expected_accuracy_ratio{{{REPLICA_MODEL}}})",
                            "expected accuracy",
                        ),
                    ],
                    "percentunit",
                ),
            ],
        ),
        Row(
            "Gate",
            [
                Panel(
                    "p-values",
                    "Uniform without drift: each band has a share equal to its width. Many values "
                    "at the bottom mean a new kind of image.",
                    [heat("tidegate_ood_p_value", REPLICA_MODEL)],
                    kind="heatmap",
                    width=12,
                ),
                Panel(
                    "Scores",
                    "Medians. Energy also depends on contrast and blur, Mahalanobis on content.",
                    [
                        Query(
                            "histogram_quantile(0.5, sum by (le, score) "
                            f"(rate(tidegate_ood_score_bucket{{{REPLICA_MODEL}}}{RATE})))",
                            "{{score}}",
                        )
                    ],
                    width=12,
                ),
            ],
        ),
        Row(
            "Feedback",
            [
                Panel(
                    "Accuracy",
                    "Of the answers with feedback, over a day, and the accuracy that the model's "
                    "probabilities predicted for the same answers.",
                    [
                        Query(
                            f'sum(increase(tidegate_feedback_total{{{REPLICA},correct="true"}}'
                            f"[1d])) / (sum(increase(tidegate_feedback_total{{{REPLICA}}}[1d]))"
                            " > 0)",
                            "measured",
                        ),
                        Query(
                            f"sum(increase(tidegate_feedback_probability_total{{{REPLICA}}}[1d]))"
                            f" / (sum(increase(tidegate_feedback_total{{{REPLICA}}}[1d])) > 0)",
                            "predicted",
                        ),
                    ],
                    "percentunit",
                    width=12,
                ),
                Panel(
                    "Answers with feedback",
                    "Over a day. With few of them the accuracy is unreliable.",
                    [
                        Query(
                            "sum by (correct) "
                            f"(increase(tidegate_feedback_total{{{REPLICA}}}[1d]))",
                            "correct: {{correct}}",
                        )
                    ],
                    kind="stacked",
                    width=12,
                ),
            ],
        ),
    ],
)
