"""The GPUs: what NVML tells of each that a replica sees, and what the engine does with it."""

from panels import RATE, REPLICA, Board, Panel, Query, Row, mean


def _nvml(title: str, about: str, metric: str, unit: str) -> Panel:
    query = Query(f"tidegate_gpu_{metric}{{{REPLICA}}}", "{{instance}} GPU {{gpu}}")
    return Panel(title, about, [query], unit)


BOARD = Board(
    "tidegate-gpu",
    "Tidegate: GPU",
    "Replicas with NVIDIA's driver and the extra [gpu] tell of every GPU that they see.",
    ["instance"],
    [
        Row(
            "Work",
            [
                _nvml(
                    "Utilisation",
                    "Share of the last moment in which any kernel ran: 1 does not mean full.",
                    "utilization_ratio",
                    "percentunit",
                ),
                Panel(
                    "Busy slots",
                    "Slots at work on average: copies and kernels of different slots overlap.",
                    [
                        Query(
                            "sum by (instance) "
                            f"(rate(tidegate_slot_busy_seconds_total{{{REPLICA}}}{RATE}))",
                            "{{instance}}",
                        )
                    ],
                ),
                Panel(
                    "Images a second of busy slot",
                    "What a slot gets done while it works; it falls when clocks or batches do.",
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
                    "Where a batch's time goes",
                    "By the GPU's own clock, on average; parts of different batches overlap.",
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
                    "By everything on that GPU, beside what it has.",
                    [
                        Query(
                            f"tidegate_gpu_memory_used_bytes{{{REPLICA}}}",
                            "{{instance}} GPU {{gpu}}",
                        ),
                        Query(
                            f"tidegate_gpu_memory_total_bytes{{{REPLICA}}}",
                            "{{instance}} GPU {{gpu}} has",
                        ),
                    ],
                    "bytes",
                ),
                _nvml(
                    "Clock",
                    "Of the multiprocessors. A drop under load is heat or power.",
                    "clock_hertz",
                    "hertz",
                ),
                _nvml("Temperature", "Of the GPU's core.", "temperature_celsius", "celsius"),
            ],
        ),
    ],
)
