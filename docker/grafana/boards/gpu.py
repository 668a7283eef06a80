"""The GPU dashboard: NVML's readings of each visible GPU, and the engine's use of it."""

from panels import RATE, REPLICA, Board, Panel, Query, Row, mean


def _nvml(title: str, about: str, metric: str, unit: str) -> Panel:
    query = Query(f"tidegate_gpu_{metric}{{{REPLICA}}}", "{{instance}} GPU {{gpu}}")
    return Panel(title, about, [query], unit)


BOARD = Board(
    "tidegate-gpu",
    "Tidegate: GPU",
    "Each replica with NVIDIA's driver and the extra [gpu] exposes metrics of every visible GPU.",
    ["instance"],
    [
        Row(
            "Work",
            [
                _nvml(
                    "Utilisation",
                    "Share of NVML's last sampling period in which any kernel ran. 1 does not mean "
                    "that the GPU is fully used.",
                    "utilization_ratio",
                    "percentunit",
                ),
                Panel(
                    "Busy slots",
                    "Average number of busy slots. Copies and kernels of different slots overlap.",
                    [
                        Query(
                            "sum by (instance) "
                            f"(rate(tidegate_slot_busy_seconds_total{{{REPLICA}}}{RATE}))",
                            "{{instance}}",
                        )
                    ],
                ),
                Panel(
                    "Images per second of a busy slot",
                    "Throughput of a slot while it is busy. It falls with the clock or the batch "
                    "size.",
                    [
                        Query(
                            f"sum by (instance) (rate(tidegate_batch_size_sum{{{REPLICA}}}{RATE}))"
                            " / (sum by (instance) "
                            f"(rate(tidegate_slot_busy_seconds_total{{{REPLICA}}}{RATE})) > 0)",
                            "{{instance}}",
                        )
                    ],
                    "reqps",
                ),
            ],
        ),
        Row(
            "Batches",
            [
                Panel(
                    "Batch duration by part",
                    "Mean, measured by the GPU's clock. Parts of different batches overlap.",
                    [
                        Query(
                            mean("tidegate_batch_duration_seconds", REPLICA, " by (part)"),
                            "{{part}}",
                        )
                    ],
                    "s",
                ),
            ],
        ),
        Row(
            "Device",
            [
                Panel(
                    "Memory in use",
                    "By all processes on that GPU, and its total memory.",
                    [
                        Query(
                            f"tidegate_gpu_memory_used_bytes{{{REPLICA}}}",
                            "{{instance}} GPU {{gpu}}",
                        ),
                        Query(
                            f"tidegate_gpu_memory_total_bytes{{{REPLICA}}}",
                            "{{instance}} GPU {{gpu}} total",
                        ),
                    ],
                    "bytes",
                ),
                _nvml(
                    "Clock",
                    "Clock of the multiprocessors. Heat or the power limit lowers it under load.",
                    "clock_hertz",
                    "hertz",
                ),
                _nvml(
                    "Temperature", "Temperature of the GPU core.", "temperature_celsius", "celsius"
                ),
            ],
        ),
    ],
)
