"""Measures the effect of disturbing clients on others: a steady load with and without them.

The steady load never stops. Windows without and with the disturbance alternate, so that a change in
the machine's speed affects both. A request belongs to the window of its intended send time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from load_tests.generator.run import Run
from load_tests.generator.statistics import quantiles_ms
from load_tests.scenarios.disturbances import Disturb, burst, slow_uploads, vanishing
from load_tests.scenarios.findings import Finding, at_most, fact, ratio
from load_tests.scenarios.setting import Result, Setting

BACKGROUND_SHARE = 0.3  # of the capacity
VANISHING_SHARE = 0.2
CLIENTS = 200  # in a burst, and of slow uploads
ROUNDS = 6
WINDOW_S = 5.0
URGENT_MS = 250.0  # deadline of the steady load during a burst without a deadline
SETTLE_S = 1.0  # left out after a disturbance, because its backlog is part of it
TAKEN_S = 0.25  # until a server has read and admitted a burst
MOVED = 1.2


@dataclass(frozen=True)
class Span:
    """An interval on the clock of time.monotonic()."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Windows:
    """The windows: undisturbed, disturbed, and the part after the disturbance's last answer."""

    quiet: list[Span]
    disturbed: list[Span]
    calm: list[Span]
    fates: Counter[str]  # outcomes of the disturbing clients


async def during_bursts(setting: Setting, capacity: float, rounds: int, window_s: float) -> Result:
    """Send 200 concurrent requests at the start of every second window.

    They have no deadline, like a batch job; the steady load has one, like interactive users. Only
    the deadline lets the server distinguish them.
    """
    disturb = burst(setting.target, setting.requests(None), CLIENTS, setting.timeout_s)
    run, windows = await _with_disturbance(
        setting, "burst", capacity, disturb, rounds, window_s, URGENT_MS
    )
    findings = [
        *of_neighbours(run, windows),
        *of_queue(run, windows),
        *of_calm(run, windows),
        *of_fates(windows),
    ]
    return Result(findings, {"background": run})


async def during_slow_uploads(
    setting: Setting, capacity: float, rounds: int, window_s: float
) -> Result:
    """Run 200 clients that upload at 1 kB/s throughout every second window."""
    disturb = slow_uploads(setting.target, setting.requests(None), CLIENTS, setting.seed)
    run, windows = await _with_disturbance(setting, "slow", capacity, disturb, rounds, window_s)
    return Result([*of_neighbours(run, windows), *of_fates(windows)], {"background": run})


async def during_vanishing_clients(
    setting: Setting, capacity: float, rounds: int, window_s: float
) -> Result:
    """Run disconnecting clients at 20 % of the capacity throughout every second window."""
    disturb = vanishing(
        setting.target,
        setting.requests(None),
        VANISHING_SHARE * capacity,
        setting.timeout_s,
        setting.seed,
    )
    run, windows = await _with_disturbance(setting, "vanish", capacity, disturb, rounds, window_s)
    return Result([*of_neighbours(run, windows), *of_fates(windows)], {"background": run})


def of_neighbours(run: Run, windows: Windows) -> list[Finding]:
    """Compare the steady load's p99 in disturbed windows with that in the others."""
    quiet, disturbed = _p99_ms(run, windows.quiet), _p99_ms(run, windows.disturbed)
    return [
        fact("p99 of the others, undisturbed", quiet, "ms"),
        fact("p99 of the others, disturbed", disturbed, "ms"),
        at_most("disturbed over undisturbed", ratio(disturbed, quiet), MOVED, "×"),
        at_most("others unanswered", run.report.requests - run.report.answered, 0, "requests"),
    ]


def of_queue(run: Run, windows: Windows) -> list[Finding]:
    """Compare the steady load's p99 while a burst waits, after it was taken, with that before."""
    waits = [
        Span(disturbed.start_s + TAKEN_S, calm.start_s)
        for disturbed, calm in zip(windows.disturbed, windows.calm, strict=True)
    ]
    quiet, queued = _p99_ms(run, windows.quiet), _p99_ms(run, waits)
    return [
        fact("p99 of the others, while the burst waits", queued, "ms"),
        fact("while the burst waits over undisturbed", ratio(queued, quiet), "×"),
    ]


def of_calm(run: Run, windows: Windows) -> list[Finding]:
    """Compare the steady load's p99 after the disturbance's last answer with that before."""
    quiet, calm = _p99_ms(run, windows.quiet), _p99_ms(run, windows.calm)
    return [
        fact("p99 of the others, after the last answer", calm, "ms"),
        at_most("after the last answer over undisturbed", ratio(calm, quiet), MOVED, "×"),
    ]


def of_fates(windows: Windows) -> list[Finding]:
    """Return the outcomes of the disturbing clients."""
    return [
        fact(f"disturbing clients: {fate}", n, "clients")
        for fate, n in sorted(windows.fates.items())
    ]


async def _with_disturbance(
    setting: Setting,
    title: str,
    capacity: float,
    disturb: Disturb,
    rounds: int,
    window_s: float,
    deadline_ms: float | None = None,
) -> tuple[Run, Windows]:
    """Run the steady load through `rounds` pairs of windows."""
    round_s = 2 * window_s + SETTLE_S
    rate, duration_s = BACKGROUND_SHARE * capacity, SETTLE_S + rounds * round_s
    load = setting.at_rate(rate, duration_s, deadline_ms)
    async with asyncio.TaskGroup() as group:
        background = group.create_task(setting.drive(title, load))
        windows = await _take_turns(disturb, rounds, window_s)
    return background.result(), windows


async def _take_turns(disturb: Disturb, rounds: int, window_s: float) -> Windows:
    windows = Windows([], [], [], Counter())
    for _ in range(rounds):
        await asyncio.sleep(SETTLE_S)
        start = time.monotonic()
        await asyncio.sleep(window_s)
        middle = time.monotonic()
        disturbed = await disturb(middle + window_s)
        await asyncio.sleep(max(0.0, middle + window_s - time.monotonic()))
        end = max(middle + window_s, disturbed.calm_at_s)
        windows.quiet.append(Span(start, middle))
        windows.disturbed.append(Span(middle, end))
        windows.calm.append(Span(disturbed.calm_at_s, end))
        windows.fates.update(disturbed.fates)
    return windows


def _p99_ms(run: Run, spans: Sequence[Span]) -> float | None:
    latencies = [
        o.latency_s
        for o in run.outcomes
        if o.answered and any(span.start_s <= o.at_s < span.end_s for span in spans)
    ]
    return quantiles_ms(latencies).get("p99")
