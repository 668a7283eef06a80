"""The model: its answers, its gate, and what feedback says of it."""

from panels import RATE, REPLICA, REPLICA_MODEL, Board, Panel, Query, Row, heat, mean

BOARD = Board(
    "tidegate-model",
    "Tidegate: model",
    "What is served, what it answers, and how right it is where somebody told.",
    ["instance", "model"],
    [
        Row(
            "Served",
            [
                Panel(
                    "By replica",
                    "Digests must agree: TidegateReplicasDisagree.",
                    [Query(f"tidegate_model_info{{{REPLICA_MODEL}}}")],
                    kind="table",
                    width=24,
                )
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
                    "Commonest classes",
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
                    "Mean probability of the predicted class, and what the model therefore expects "
                    "of its own accuracy over its last two thousand images.",
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
                    "As many in each band as it is wide while nothing drifts; piled up at the "
                    "bottom: a new kind of image.",
                    [heat("tidegate_ood_p_value", REPLICA_MODEL)],
                    kind="heatmap",
                    width=12,
                ),
                Panel(
                    "Scores",
                    "Medians. Energy moves with contrast and blur too, Mahalanobis with content.",
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
            "Told by feedback",
            [
                Panel(
                    "Accuracy",
                    "Of the answers whose true class was told, over a day, beside what the model's "
                    "probabilities promised for the same answers.",
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
                            "promised",
                        ),
                    ],
                    "percentunit",
                    width=12,
                ),
                Panel(
                    "Answers with a told class",
                    "In a day: with few, the accuracy is a guess.",
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
