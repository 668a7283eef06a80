"""Steady loads: the capacity, the latency of a single client, and 80 % of the capacity."""

from dataclasses import replace

from load_tests.errors import MeasurementFailed
from load_tests.generator.run import Load, Run
from load_tests.scenarios.findings import Finding, at_most, fact
from load_tests.scenarios.setting import Result, Setting

CAPACITY_CLIENTS = 32
CAPACITY_S = 6.0
WARM_UP_S = 2.0
LIGHT_S = 5.0
EIGHTY_S = 20.0
P99_OVER_UNLOADED_P50 = 4.0


async def capacity(setting: Setting) -> float:
    """Return images per second with 32 closed-loop clients, or the given capacity.

    Raises MeasurementFailed if nothing is answered.
    """
    if setting.capacity is not None:
        return setting.capacity
    load = Load(
        CAPACITY_S,
        clients=CAPACITY_CLIENTS,
        warm_up_s=WARM_UP_S,
        timeout_s=setting.timeout_s,
        seed=setting.seed,
    )
    report = (await setting.drive("capacity", load)).report
    if not report.answered:
        raise MeasurementFailed(
            f"none of {report.requests} requests was answered "
            f"(statuses {report.statuses}, errors {report.errors})"
        )
    return report.throughput


async def light(setting: Setting) -> Result:
    """Run one client that waits for each answer: the unloaded latency."""
    run = await setting.drive("light", _one_client(setting))
    quantiles = run.report.latency_ms
    findings = [fact(f"latency {name}", quantiles.get(name), "ms") for name in ("p50", "p99")]
    return Result(findings, {"light": run})


async def eighty(setting: Setting, capacity: float) -> Result:
    """Run open loops at 80 % of the capacity and compare them with an unloaded run.

    Evenly spaced arrivals measure the server; Poisson arrivals include queueing: two slots with a
    constant service time have a p99 of six times that time in any implementation.
    """
    runs = {"unloaded": await setting.drive("eighty: unloaded", _one_client(setting))}
    load = setting.at_rate(0.8 * capacity, EIGHTY_S)
    findings = [fact("unloaded p50", runs["unloaded"].report.latency_ms.get("p50"), "ms")]
    for arrivals in ("constant", "poisson"):
        name = f"80 % {arrivals}"
        runs[name] = await setting.drive(name, replace(load, arrivals=arrivals))
        findings += findings_at_eighty(name, runs["unloaded"], runs[name])
    return Result(findings, runs)


def findings_at_eighty(name: str, unloaded: Run, loaded: Run) -> list[Finding]:
    """Compare the p99 with the unloaded median, and count unanswered requests."""
    p50 = unloaded.report.latency_ms.get("p50")
    p99 = loaded.report.latency_ms.get("p99")
    unanswered = loaded.report.requests - loaded.report.answered
    return [
        fact(f"{name}: p50", loaded.report.latency_ms.get("p50"), "ms"),
        at_most(f"{name}: p99", p99, P99_OVER_UNLOADED_P50 * (p50 or 0.0), "ms"),
        at_most(f"{name}: refused or failed", unanswered, 0, "requests"),
    ]


def _one_client(setting: Setting) -> Load:
    return Load(
        LIGHT_S, clients=1, warm_up_s=WARM_UP_S, timeout_s=setting.timeout_s, seed=setting.seed
    )
