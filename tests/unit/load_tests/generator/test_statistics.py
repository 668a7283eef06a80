"""Statistics of outcomes, and the CPU and memory of processes from /proc."""

import os
import subprocess
import sys
import threading
import time

import pytest

from load_tests.generator.loops import Outcome
from load_tests.generator.statistics import Spent, quantiles_ms, summarise
from load_tests.report.text import as_text
from load_tests.server.batch_sizes import BatchSizes
from load_tests.server.usage import Usage, usage

SPENT = Spent(elapsed_s=2.0, client_cpu_s=0.1, connections_opened=4)


def _ok(latency_s: float) -> Outcome:
    return Outcome(latency_s=latency_s, service_s=latency_s, lag_s=0.0, status=200)


def _shed(retry_after_s: float) -> Outcome:
    return Outcome(0.001, 0.001, 0.0, status=503, code="overloaded", retry_after_s=retry_after_s)


def test_goodput_counts_only_answers_within_the_deadline() -> None:
    outcomes = [_ok(0.1), _ok(0.2), _ok(0.3), _shed(1)]

    report = summarise(outcomes, SPENT, deadline_s=0.25)

    assert report.throughput == 1.5
    assert report.goodput == 1.0


def test_fast_rejections_do_not_lower_the_latency_of_answers() -> None:
    report = summarise([_ok(0.1)] + [_shed(1)] * 99, SPENT, deadline_s=None)

    assert report.latency_ms["p50"] == pytest.approx(100)
    assert report.refusal_ms["p50"] == pytest.approx(1)
    assert report.goodput is None


def test_everything_is_counted_once() -> None:
    timeout = Outcome(10.0, None, 0.0, error="timeout")

    report = summarise([_ok(0.1), _shed(1), _shed(3), timeout], SPENT, deadline_s=None)

    assert report.statuses == {"200": 1, "503": 2}
    assert report.codes == {"overloaded": 2}
    assert report.errors == {"timeout": 1}
    assert report.retry_after_s == {"min": 1, "max": 3, "count": 2}
    assert report.requests == sum(report.statuses.values()) + sum(report.errors.values())


def test_quantiles_are_observed_values() -> None:
    quantiles = quantiles_ms([i / 1000 for i in range(1, 1001)])

    expected = {"p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    assert quantiles == pytest.approx(expected)


def test_a_run_without_answers_has_no_latency_rather_than_zero() -> None:
    report = summarise([_shed(1)], SPENT, deadline_s=0.25)

    assert report.latency_ms == {}
    assert report.server_cpu_ms_per_image is None
    assert "latency ms" not in as_text(report)


def test_server_cpu_is_divided_by_the_answered_images() -> None:
    spent = Spent(2.0, 0.1, 4, server=Usage(cpu_s=0.5, rss_mb=200, peak_rss_mb=210))

    report = summarise([_ok(0.1)] * 50 + [_shed(1)] * 50, spent, deadline_s=None)

    assert report.server_cpu_ms_per_image == pytest.approx(10)
    assert "10.00 ms per answered image" in as_text(report)


def test_vanished_clients_are_counted_separately() -> None:
    vanished = Outcome(5.0, 5.0, 0.0, vanished=True)

    report = summarise([_ok(0.1), vanished], SPENT, deadline_s=10.0)

    assert (report.requests, report.answered, report.vanished) == (2, 1, 1)
    assert (report.statuses, report.errors) == ({"200": 1}, {})
    assert report.latency_ms["max"] == pytest.approx(100)
    assert report.goodput == 0.5
    assert "1 on purpose" in as_text(report)


def test_a_client_at_its_limit_gives_a_warning() -> None:
    busy = Spent(elapsed_s=2.0, client_cpu_s=1.9, connections_opened=4)

    report = summarise([_ok(0.1)], busy, deadline_s=None)

    assert report.client_cores == pytest.approx(0.95)
    assert "WARNING" in as_text(report)
    assert summarise([_ok(0.1)], SPENT, deadline_s=None).warnings == []


@pytest.mark.parametrize(("lag_s", "warned"), [(0.001, False), (0.02, False), (0.05, True)])
def test_a_generator_that_starts_late_gives_a_warning(lag_s: float, warned: bool) -> None:
    late = [Outcome(0.1, 0.1, lag_s, status=200)] * 100

    assert bool(summarise(late, SPENT, deadline_s=None).warnings) is warned


def test_a_stalled_generator_gives_a_warning_even_if_nothing_was_answered() -> None:
    stalled = [Outcome(140.0, None, 140.0, error="timeout")] * 100

    assert summarise(stalled, SPENT, deadline_s=None).warnings


def test_predictions_are_summarised_by_relative_error() -> None:
    pairs = [
        (110.0, 100.0),
        (90.0, 100.0),
        (130.0, 100.0),
        (1.0, 0.0),
    ]  # the last has an actual time of 0
    outcomes = [
        Outcome(0.1, 0.1, 0.0, status=200, predicted_ms=p, total_ms=t) for p, t in pairs
    ] + [_ok(0.1)]

    prediction = summarise(outcomes, SPENT, deadline_s=None).prediction

    assert prediction == pytest.approx(
        {"count": 3, "median_absolute_relative_error": 0.1, "median_relative_error": 0.1}
    )


def test_batch_sizes_are_reported_when_the_server_has_them() -> None:
    spent = Spent(2.0, 0.1, 4, batches=BatchSizes(4, 10, {"1.0": 1, "4.0": 3, "+Inf": 0}))

    report = summarise([_ok(0.1)], spent, deadline_s=None)

    assert report.batch_size_mean == 2.5
    assert "mean 2.50  ≤1.0 1  ≤4.0 3" in as_text(report)
    assert summarise([_ok(0.1)], SPENT, None).batch_size_mean is None


def test_usage_counts_threads_and_open_files() -> None:
    before = usage(os.getpid())
    opened = open(os.devnull)  # noqa: SIM115  # to be counted
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()

    after = usage(os.getpid())
    done.set()
    thread.join()
    opened.close()

    assert after.threads == before.threads + 1
    assert before.open_files is not None
    assert after.open_files == before.open_files + 1


@pytest.mark.lengthy
def test_usage_includes_children() -> None:
    # The child says when it has burnt 0.2 s of CPU, then waits to be ended.
    burn = "import time\nwhile time.process_time() < .2: pass\nprint(flush=True)\ninput()"
    before = usage(os.getpid())

    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        spent = usage(os.getpid()).since(before)
        own = usage(child.pid)

    assert spent.cpu_s >= 0.15  # 0.2 less the ticks of 10 ms that /proc rounds to
    assert 1 < own.rss_mb <= own.peak_rss_mb


@pytest.mark.lengthy
def test_usage_of_a_busy_process_agrees_with_its_own_clock() -> None:
    before, clock = usage(os.getpid()), time.process_time()

    while time.process_time() < clock + 0.3:
        pass
    spent = usage(os.getpid()).since(before).cpu_s

    assert spent == pytest.approx(time.process_time() - clock, abs=0.05)  # ticks of 10 ms


def test_usage_of_a_process_that_has_ended_is_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    with pytest.raises(ProcessLookupError):
        usage(child.pid)
