"""The service: traffic, latency, queue and processes."""

from panels import CLASSIFY, RATE, REPLICA, Board, Panel, Query, Row, heat, mean, quantile, stat

BOARD = Board(
    "tidegate-service",
    "Tidegate: service",
    "Is it up, prompt, and within its error budget? The alerts are in docker/RUNBOOK.md.",
    ["instance"],
    [
        Row(
            "Now",
            [
                stat(
                    "Replicas ready",
                    "With a warm model; TidegateNotReady tells of the others.",
                    'count(tidegate_model_info{job="$job"})',
                ),
                stat("Replicas scraped", "TidegateDown below.", 'sum(up{job="$job"})'),
                stat(
                    "Images",
                    "Answered per second, out-of-distribution ones included.",
                    f'sum(rate(tidegate_ood_decisions_total{{job="$job"}}{RATE}))',
                    "reqps",
                ),
                stat(
                    "p99 of /classify",
                    "Over five minutes; TidegateSlow from 1 s on.",
                    'tidegate:request_duration_p99:seconds5m{job="$job"}',
                    "s",
                ),
                stat(
                    "Shed",
                    "Share of the images refused for load; TidegateShedding from 5 % on.",
                    'tidegate:shed:ratio5m{job="$job"}',
                    "percentunit",
                ),
                stat(
                    "Failing",
                    "Share of the hour's requests answered 5xx; the objective is below 0.5 %.",
                    'tidegate:errors:ratio1h{job="$job"}',
                    "percentunit",
                ),
            ],
        ),
        Row(
            "Traffic",
            [
                Panel(
                    "Requests by status",
                    "422 is an image that is out of distribution or not usable; 429 and 503 are "
                    "load, 504 a missed deadline.",
                    [
                        Query(
                            "sum by (status) "
                            f'(rate(tidegate_requests_total{{{REPLICA},route=~"/classify.*"}}'
                            f"{RATE}))",
                            "{{status}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Images refused or dropped",
                    "By reason. predicted-late: it could not have been answered in time.",
                    [
                        Query(
                            f"sum by (reason) (rate(tidegate_shed_total{{{REPLICA}}}{RATE}))",
                            "{{reason}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Error budget burn",
                    "1 uses up the month's budget in a month. TidegateErrorBudgetBurn: 14.4 over "
                    "1 h and 5 m, or 6 over 6 h and 30 m.",
                    [
                        Query(f'tidegate:errors:ratio{w}{{job="$job"}} / 0.005', w)
                        for w in ("5m", "30m", "1h", "6h")
                    ],
                    limit=14.4,
                ),
            ],
        ),
        Row(
            "Latency",
            [
                Panel(
                    "Latency of /classify",
                    "From the headers to the answer's last byte, as the server sees it.",
                    [
                        quantile(q, "tidegate_request_duration_seconds", CLASSIFY)
                        for q in (0.5, 0.9, 0.99)
                    ],
                    "s",
                    limit=1,
                ),
                Panel(
                    "Where an image's time goes",
                    "Mean by stage. read: the client's network. queue: waiting for the engine.",
                    [
                        Query(
                            mean("tidegate_stage_duration_seconds", REPLICA, " by (stage)"),
                            "{{stage}}",
                        )
                    ],
                    "s",
                    "stacked",
                ),
                Panel(
                    "Wait for the engine, p99",
                    "Over five minutes; TidegateQueueDelay from 0.5 s on.",
                    [Query('tidegate:queue_delay_p99:seconds5m{job="$job"}', "p99")],
                    "s",
                    limit=0.5,
                ),
                Panel(
                    "Latencies of /classify",
                    "All of them: a second band is a second kind of request.",
                    [heat("tidegate_request_duration_seconds", CLASSIFY)],
                    "s",
                    "heatmap",
                    width=24,
                ),
            ],
        ),
        Row(
            "Queue and engine",
            [
                Panel(
                    "In flight and queued",
                    "Requests being worked on, and images not yet given to the engine.",
                    [
                        Query(f"tidegate_inflight_requests{{{REPLICA}}}", "{{instance}} in flight"),
                        Query(f"tidegate_queue_depth{{{REPLICA}}}", "{{instance}} queued"),
                    ],
                ),
                Panel(
                    "Busy slots",
                    "Slots at work on average; near their number the engine is the limit.",
                    [
                        Query(
                            "sum by (instance) "
                            f"(rate(tidegate_slot_busy_seconds_total{{{REPLICA}}}{RATE}))",
                            "{{instance}}",
                        )
                    ],
                ),
                Panel(
                    "Images in a batch",
                    "Mean. On a CPU near 1 unless it is busy.",
                    [Query(mean("tidegate_batch_size", REPLICA, " by (instance)"), "{{instance}}")],
                ),
            ],
        ),
        Row(
            "Processes",
            [
                Panel(
                    "CPU for an image",
                    "All of the process's CPU, refusals included, by image answered.",
                    [
                        Query(
                            f"sum by (instance) (rate(process_cpu_seconds_total{{{REPLICA}}}"
                            f"{RATE})) / (sum by (instance) (rate(tidegate_ood_decisions_total"
                            f"{{{REPLICA}}}{RATE})) > 0)",
                            "{{instance}}",
                        )
                    ],
                    "s",
                ),
                Panel(
                    "Resident memory",
                    "Flat under a steady load.",
                    [Query(f"process_resident_memory_bytes{{{REPLICA}}}", "{{instance}}")],
                    "bytes",
                ),
                Panel(
                    "Age",
                    "Since the process began; TidegateRestartLoop: three starts in half an hour.",
                    [
                        Query(
                            f"time() - process_start_time_seconds{{{REPLICA}}}",
                            "{{instance}}",
                        )
                    ],
                    "s",
                ),
                Panel(
                    "Versions",
                    "Replicas by the version of Tidegate that they run.",
                    [Query('count by (version) (tidegate_build_info{job="$job"})', "{{version}}")],
                ),
                Panel(
                    "Open files",
                    "Connections are among them.",
                    [Query(f"process_open_fds{{{REPLICA}}}", "{{instance}}")],
                ),
                Panel(
                    "Images for review",
                    "By what became of them: over-rate, disk-busy and failed were not kept.",
                    [
                        Query(
                            "sum by (outcome) "
                            f"(rate(tidegate_review_images_total{{{REPLICA}}}{RATE}))",
                            "{{outcome}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Log lines dropped",
                    "Not written, because the reader of stderr was too slow or gone.",
                    [
                        Query(
                            f"rate(tidegate_log_lines_dropped_total{{{REPLICA}}}{RATE})",
                            "{{instance}}",
                        )
                    ],
                ),
            ],
        ),
    ],
)
