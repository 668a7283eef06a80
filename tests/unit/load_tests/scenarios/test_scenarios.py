"""Scenarios: findings from outcomes, and disturbances on a fake server."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from load_tests.client.requests import Target
from load_tests.generator.loops import Outcome
from load_tests.generator.run import Load, Run
from load_tests.generator.statistics import Spent, summarise
from load_tests.scenarios import neighbours, overload, soak, steady
from load_tests.scenarios.disturbances import Disturb, Disturbed, burst, slow_uploads, vanishing
from load_tests.scenarios.findings import Finding, as_lines, at_least, at_most, fact
from load_tests.scenarios.neighbours import Span, Windows
from load_tests.scenarios.trend import trend
from load_tests.server.sampling import Sample
from tests.unit.load_tests.fakes import OK, OVERLOADED, REQUEST, FakeServer, listening


def _run(outcomes: Sequence[Outcome], **load: Any) -> Run:
    spent = Spent(elapsed_s=1.0, client_cpu_s=0.1, connections_opened=1)
    load = {"duration_s": 1.0, "rate": 100.0, **load}
    return Run(Load(**load), list(outcomes), summarise(outcomes, spent, None))


def _ok(latency_s: float, at_s: float = 0.0) -> Outcome:
    return Outcome(latency_s, latency_s, 0.0, status=200, at_s=at_s)


def _by_name(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.quantity: finding for finding in findings}


# What is printed.


def test_an_aim_is_met_missed_or_absent() -> None:
    findings = [
        at_most("a", 1, 2, "ms"),
        at_most("b", 3, 2, "ms"),
        at_least("c", 3, 2, "/s"),
        at_least("d", None, 2, "/s"),
        fact("e", 5, "MB"),
    ]

    assert [f.met for f in findings] == [True, False, True, False, None]
    lines = as_lines(findings).splitlines()
    assert lines[1].endswith("aim ≤ 2: MISSED")
    assert "not measured" in lines[3]
    assert "aim" not in lines[4]


# Trends.


def test_noise_around_a_constant_has_no_slope_and_a_leak_has_one() -> None:
    at_s = [float(i) for i in range(900)]
    noise = np.random.default_rng(0).normal(0, 0.5, 900)

    flat = trend(at_s, list(200 + noise))
    leak = trend(at_s, list(200 + noise + np.array(at_s) * 10 / 3600))

    assert flat is not None
    assert leak is not None
    assert flat.zero_inside
    assert not leak.zero_inside
    assert leak.per_hour == pytest.approx(10, abs=3 * leak.standard_error)


def test_the_interval_contains_zero_for_19_of_20_series_without_a_slope() -> None:
    rng = np.random.default_rng(1)
    at_s = [float(i) for i in range(200)]
    trends = [trend(at_s, list(rng.normal(0, 1, 200))) for _ in range(400)]

    inside = sum(t is not None and t.zero_inside for t in trends)
    assert 360 <= inside <= 396  # 380 expected; four standard deviations are 17


def test_a_constant_has_exactly_no_slope_and_a_few_samples_have_none_at_all() -> None:
    constant = trend(list(range(100)), [253.41015625] * 100)

    assert constant is not None
    assert (constant.per_hour, constant.zero_inside) == (0, True)
    assert trend([0, 1], [1, 2]) is None


# Conclusions.


def test_eighty_percent_is_compared_with_the_unloaded_median() -> None:
    unloaded = _run([_ok(0.01)] * 10)

    met = _by_name(steady.findings_at_eighty("80 %", unloaded, _run([_ok(0.039)] * 10)))
    missed = _by_name(steady.findings_at_eighty("80 %", unloaded, _run([_ok(0.041)] * 10)))

    assert met["80 %: p99"].met
    assert not missed["80 %: p99"].met
    assert met["80 %: refused or failed"].met


def test_overload_computes_goodput_over_the_duration_of_the_load() -> None:
    good, late = [_ok(0.2)] * 180, [_ok(0.3)] * 40
    refused = [Outcome(0.005, 0.005, 0.0, status=503, retry_after_s=1.0)] * 98
    silent = [Outcome(0.05, 0.05, 0.0, status=503)] * 2
    missed = [Outcome(0.25, 0.25, 0.0, status=504)] * 3

    found = _by_name(
        overload.in_overload(
            _run([*good, *late, *refused, *silent, *missed], duration_s=2.0), 100, ""
        )
    )

    assert found["goodput within 250 ms"].value == 90
    assert found["goodput of the capacity"].met
    assert found["refusals, p99"].value == pytest.approx(50)
    assert not found["refusals, p99"].met
    assert found["refusals without Retry-After"].value == 2
    assert found["admitted but too late (504)"].value == 3


def test_recovery_counts_only_requests_from_one_second_after_the_overload() -> None:
    before = _run([_ok(0.02)] * 10)
    during = _run([_ok(0.2, at_s=50.0), _ok(0.2, at_s=60.0)])
    slow_at_first = [_ok(2.0, at_s=60.5), _ok(0.021, at_s=61.5)]

    found = _by_name(overload.of_recovery(before, during, _run(slow_at_first), ""))
    later = _by_name(overload.of_recovery(before, during, _run([_ok(2.0, at_s=61.5)]), ""))

    assert found["p99 after over before"].value == pytest.approx(1.05)
    assert found["p99 after over before"].met
    assert not later["p99 after over before"].met


def test_memory_that_grows_after_the_first_quarter_misses_its_aim() -> None:
    def samples(*rss_mb: float) -> list[Sample]:
        return [Sample(float(i), mb, 9, 20) for i, mb in enumerate(rss_mb)]

    warm = _by_name(overload.of_memory(samples(200, 240, 240, 240, 241), ""))
    leaking = _by_name(overload.of_memory(samples(200, 240, 250, 260, 270), ""))

    assert warm["memory at the end"].met
    assert not leaking["memory at the end"].met
    assert leaking["memory at most"].value == 270


def test_neighbours_are_compared_only_within_their_windows() -> None:
    windows = Windows([Span(0, 5)], [Span(5, 10)], [Span(7, 10)], Counter(answered=3))
    run = _run(
        [_ok(0.1, at_s=1), _ok(0.5, at_s=6), _ok(0.11, at_s=8), _ok(9.0, at_s=10), _ok(9.0, 12)]
    )

    found = _by_name(neighbours.of_neighbours(run, windows) + neighbours.of_calm(run, windows))

    assert found["disturbed over undisturbed"].value == pytest.approx(5)
    assert not found["disturbed over undisturbed"].met
    assert found["after the last answer over undisturbed"].value == pytest.approx(1.1)
    assert found["after the last answer over undisturbed"].met
    waiting = _by_name(neighbours.of_queue(run, windows))
    assert waiting["while the burst waits over undisturbed"].value == pytest.approx(5)
    assert _by_name(neighbours.of_fates(windows))["disturbing clients: answered"].value == 3


def test_a_soak_is_evaluated_on_its_second_half() -> None:
    rss = [100.0 + i for i in range(50)] + [150.0, 150.25] * 25  # warms up, then stays
    samples = [Sample(float(i), mb, 9, 20 + i % 2) for i, mb in enumerate(rss)]

    found = _by_name(soak.findings(_run([_ok(0.1)]), samples))

    assert found["memory slope, second half"].met
    assert found["threads, most in the second half"].value == 9
    assert found["open files, most in the second half"].value == 21


# Disturbances, on a real socket.


def _disturb(fake: FakeServer, make: Any, for_s: float) -> Disturbed:
    async def run() -> Disturbed:
        async with listening(fake) as port:
            disturb: Disturb = make(Target("127.0.0.1", port, "/classify"))
            return await disturb(time.monotonic() + for_s)

    return asyncio.run(run())


def test_a_burst_sends_all_requests_concurrently() -> None:
    fake = FakeServer([OK, OVERLOADED], silent_until=30)

    disturbed = _disturb(fake, lambda t: burst(t, [REQUEST], 30, 10.0), for_s=10)

    # Nothing was answered before all 30 had arrived.
    assert disturbed.fates == {"answered": 15, "status 503": 15}
    assert fake.connections == 30


@pytest.mark.lengthy
def test_slow_clients_are_still_uploading_at_the_end() -> None:
    fake = FakeServer([OK])
    request = b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n" + bytes(50_000)

    disturbed = _disturb(fake, lambda t: slow_uploads(t, [request], 5, seed=0), for_s=1.2)

    assert disturbed.fates == {"uploading": 5}
    assert fake.bodies == []


@pytest.mark.lengthy
def test_an_early_answer_to_a_slow_client_is_counted() -> None:
    async def impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OVERLOADED)
        await writer.drain()
        writer.close()

    async def run() -> Disturbed:
        server = await asyncio.start_server(impatient, "127.0.0.1", 0)
        async with server:
            target = Target("127.0.0.1", server.sockets[0].getsockname()[1], "/")
            return await slow_uploads(target, [REQUEST], 3, seed=0)(time.monotonic() + 30)

    assert asyncio.run(run()).fates == {"answered": 3}


@pytest.mark.lengthy
def test_vanishing_clients_all_vanish() -> None:
    fake = FakeServer([OK])

    disturbed = _disturb(fake, lambda t: vanishing(t, [REQUEST], 100, 10.0, seed=0), for_s=0.3)

    assert set(disturbed.fates) == {"vanished"}
