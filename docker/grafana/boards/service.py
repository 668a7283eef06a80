"""The service dashboard: traffic, latency, queue and processes."""

from panels import (
    CLASSIFY,
    CLASSIFYING,
    RATE,
    REPLICA,
    Board,
    Panel,
    Query,
    Row,
    heat,
    mean,
    quantile,
    stat,
)

BOARD = Board(
    "tidegate-service",
    "Tidegate: service",
    "Availability, latency and error budget. docker/RUNBOOK.md describes the alerts.",
    ["instance"],
    [
        Row(
            "Now",
            [
                stat(
                    "Replicas ready",
                    "With a warm model; TidegateNotReady fires for the others.",
                    'count(count by (instance) (tidegate_model_info{job="$job"}))',
                ),
                stat(
                    "Replicas scraped",
                    "TidegateDown fires if one cannot be scraped.",
                    'sum(up{job="$job"})',
                ),
                stat(
                    "Images",
                    "Answered per second, out-of-distribution ones included.",
                    f'sum(rate(tidegate_ood_decisions_total{{job="$job"}}{RATE}))',
                    "reqps",
                ),
                stat(
                    "p99 of an image",
                    "Over five minutes; TidegateSlow fires above 1 s.",
                    'tidegate:request_duration_p99:seconds5m{job="$job"}',
                    "s",
                ),
                stat(
                    "Shed",
                    "Share of the images rejected for overload; TidegateShedding fires above 5 %.",
                    'tidegate:shed:ratio5m{job="$job"}',
                    "percentunit",
                ),
                stat(
                    "Failing",
                    "Share of the last hour's requests answered 5xx; the objective is below 0.5 %.",
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
                    "422 is an image that is out of distribution or unusable; 429 and 503 are "
                    "overload, 504 is a missed deadline.",
                    [
                        Query(
                            "sum by (status) "
                            f'(rate(tidegate_requests_total{{{REPLICA},route=~"{CLASSIFYING}"}}'
                            f"{RATE}))",
                            "{{status}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Requests by client",
                    "Of the clients with API keys; 429 is a client beyond its quota.",
                    [
                        Query(
                            "sum by (client, status) "
                            f"(rate(tidegate_client_requests_total{{{REPLICA}}}{RATE}))",
                            "{{client}} {{status}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
                Panel(
                    "Images shed",
                    "By reason. predicted-late: the image could not have been answered in time.",
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
                    "1 uses up the month's budget in a month. TidegateErrorBudgetBurn fires above "
                    "14.4 over 1 h and 5 m, or above 6 over 6 h and 30 m.",
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
                    "From the headers to the last byte of the answer, measured by the server. "
                    "Points are traced requests.",
                    [
                        quantile(
                            q, "tidegate_request_duration_seconds", CLASSIFY, exemplars=q == 0.99
                        )
                        for q in (0.5, 0.9, 0.99)
                    ],
                    "s",
                    limit=1,
                ),
                Panel(
                    "Duration by stage",
                    "Mean. read: the client's network. queue: the wait for the engine.",
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
                    "Over five minutes; TidegateQueueDelay fires above 0.5 s.",
                    [Query('tidegate:queue_delay_p99:seconds5m{job="$job"}', "p99")],
                    "s",
                    limit=0.5,
                ),
                Panel(
                    "Latency distribution of /classify",
                    "A second band is a second kind of request.",
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
                    "Requests in progress, and images that wait for the engine.",
                    [
                        Query(f"tidegate_inflight_requests{{{REPLICA}}}", "{{instance}} in flight"),
                        Query(f"tidegate_queue_depth{{{REPLICA}}}", "{{instance}} queued"),
                    ],
                ),
                Panel(
                    "Busy slots",
                    "Average number of busy slots. Near the number of slots, the engine is the "
                    "limit.",
                    [
                        Query(
                            "sum by (instance) "
                            f"(rate(tidegate_slot_busy_seconds_total{{{REPLICA}}}{RATE}))",
                            "{{instance}}",
                        )
                    ],
                ),
                Panel(
                    "Images per batch",
                    "Mean. On a CPU it is near 1 at light load.",
                    [Query(mean("tidegate_batch_size", REPLICA, " by (instance)"), "{{instance}}")],
                ),
            ],
        ),
        Row(
            "Processes",
            [
                Panel(
                    "CPU time per image",
                    "All CPU time of the process, including rejected requests, per answered image.",
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
                    "Constant under a constant load.",
                    [Query(f"process_resident_memory_bytes{{{REPLICA}}}", "{{instance}}")],
                    "bytes",
                ),
                Panel(
                    "Uptime",
                    "Since the process started. TidegateRestartLoop fires after three starts in "
                    "half an hour.",
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
                    "Replicas by version of Tidegate.",
                    [Query('count by (version) (tidegate_build_info{job="$job"})', "{{version}}")],
                ),
                Panel(
                    "Open files",
                    "Open file descriptors, including connections.",
                    [Query(f"process_open_fds{{{REPLICA}}}", "{{instance}}")],
                ),
                Panel(
                    "Front ends",
                    "Processes that answer HTTP around the process of the engine, and those that "
                    "ended and were replaced. None if one process does everything.",
                    [
                        Query(f"tidegate_front_ends{{{REPLICA}}}", "{{instance}}"),
                        Query(
                            f"rate(tidegate_front_ends_replaced_total{{{REPLICA}}}{RATE})",
                            "{{instance}} replaced",
                        ),
                    ],
                ),
                Panel(
                    "Images for review",
                    "By outcome. over-rate, disk-busy and failed were not stored.",
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
                    "Log lines not written",
                    "Dropped because the reader of stderr, or the disk of the audit log, was too "
                    "slow or gone; left out because of TIDEGATE_LOG_SHARE.",
                    [
                        Query(
                            f"rate(tidegate_log_lines_dropped_total{{{REPLICA}}}{RATE})",
                            "{{instance}} dropped",
                        ),
                        Query(
                            f"rate(tidegate_log_lines_left_out_total{{{REPLICA}}}{RATE})",
                            "{{instance}} left out",
                        ),
                        Query(
                            f"rate(tidegate_audit_lines_dropped_total{{{REPLICA}}}{RATE})",
                            "{{instance}} dropped from the audit log",
                        ),
                    ],
                ),
                Panel(
                    "Traced requests",
                    "By outcome. failed: the collector did not take them. dropped: too many "
                    "waited.",
                    [
                        Query(
                            f"sum by (outcome) (rate(tidegate_traces_total{{{REPLICA}}}{RATE}))",
                            "{{outcome}}",
                        )
                    ],
                    "reqps",
                    "stacked",
                ),
            ],
        ),
    ],
)
