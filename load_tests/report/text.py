"""A report for a terminal: one fact per line."""

from collections.abc import Mapping

from load_tests.generator.statistics import Report


def as_text(report: Report) -> str:
    """Return one fact per line, without missing facts; warnings come last."""
    rows = [
        ("requests", f"{report.requests} in {report.elapsed_s:.2f} s"),
        ("answered", f"{report.answered} ({report.throughput:.1f}/s)"),
        ("goodput", _goodput(report)),
        ("vanished", f"{report.vanished} on purpose" if report.vanished else ""),
        ("latency ms", _pairs(report.latency_ms)),
        ("refusals ms", _pairs(report.refusal_ms)),
        ("generator lag ms", _pairs(report.generator_lag_ms)),
        ("statuses", _pairs(report.statuses)),
        ("problem codes", _pairs(report.codes)),
        ("errors", _pairs(report.errors)),
        ("Retry-After s", _pairs(report.retry_after_s)),
        ("batch sizes", _batches(report)),
        ("prediction", _prediction(report.prediction)),
        ("client CPU", _client(report)),
        ("server CPU", _number(report.server_cpu_ms_per_image, "ms per answered image")),
        ("main thread CPU", _number(report.server_main_thread_ms_per_image, "ms")),
        ("server RSS", _number(report.server_rss_mb, "MB")),
        ("server peak RSS", _number(report.server_peak_rss_mb, "MB")),
        ("server resources", _resources(report)),
        *(("WARNING", warning) for warning in report.warnings),
    ]
    return "\n".join(f"{name:<18}{value}" for name, value in rows if value)


def _goodput(report: Report) -> str:
    if report.goodput is None:
        return ""
    return f"{report.goodput:.1f}/s answered within {report.deadline_ms:.0f} ms"


def _batches(report: Report) -> str:
    if report.batch_size_mean is None:
        return ""
    filled = {f"≤{bound}": n for bound, n in report.batch_sizes.items() if n}
    return f"mean {report.batch_size_mean:.2f}  {_pairs(filled)}"


def _prediction(prediction: Mapping[str, float]) -> str:
    if not prediction:
        return ""
    return (
        f"median absolute error {prediction['median_absolute_relative_error']:.1%}, "
        f"signed {prediction['median_relative_error']:+.1%} of {prediction['count']:.0f} answers"
    )


def _client(report: Report) -> str:
    return (
        f"{report.client_cpu_s:.2f} s, {report.client_cores:.2f} cores, "
        f"{report.connections_opened} connections"
    )


def _resources(report: Report) -> str:
    if report.server_threads is None:
        return ""
    files = report.server_open_files
    return f"{report.server_threads} threads" + ("" if files is None else f", {files} open files")


def _pairs(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.6g}" for name, value in values.items())


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.2f} {unit}"
