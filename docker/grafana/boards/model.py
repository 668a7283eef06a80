"""The model dashboard: its answers, its gate, and its accuracy according to feedback."""

from panels import RATE, REPLICA, REPLICA_MODEL, Board, Panel, Query, Row, heat, mean

BOARD = Board(
    "tidegate-model",
    "Tidegate: model",
    "The served bundle, its answers, and its accuracy on answers with feedback.",
    ["instance", "model"],
    [
        Row(
            "Served",
            [
                Panel(
                    "By replica",
                    "Digests must be equal; TidegateReplicasDisagree fires otherwise.",
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
