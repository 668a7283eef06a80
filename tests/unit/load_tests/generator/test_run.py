"""A whole load against a fake server: what is sent and what is measured."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.generator.ledger import Ledger, Progress
from load_tests.generator.loops import Outcome
from load_tests.generator.run import Load, Run, drive
from load_tests.server.batch_sizes import parse
from tests.unit.load_tests.fakes import OK, OVERLOADED, REQUEST, FakeServer, listening, response

METRICS = """# HELP tidegate_batch_size Images per batch.
# TYPE tidegate_batch_size histogram
tidegate_batch_size_bucket{le="1.0",model="m"} 2.0
tidegate_batch_size_bucket{le="4.0",model="m"} 5.0
tidegate_batch_size_bucket{le="+Inf",model="m"} 6.0
tidegate_batch_size_count{model="m"} 6.0
tidegate_batch_size_sum{model="m"} 24.0
"""


def _drive(fake: FakeServer, load: Load, **options: Any) -> Run:
    async def run() -> Run:
        async with listening(fake) as port:
            return await drive(Target("127.0.0.1", port, "/classify"), [REQUEST], load, **options)

    return asyncio.run(run())


@pytest.mark.lengthy
def test_an_open_loop_sends_its_rate_and_reports_every_outcome() -> None:
    run = _drive(FakeServer([OK, OVERLOADED]), Load(0.5, rate=200, arrivals="constant"))

    assert run.report.requests == len(run.outcomes) == 100
    assert run.report.statuses == {"200": 50, "503": 50}
    assert run.report.retry_after_s == {"min": 2, "max": 2, "count": 50}
    assert [o.at_s for o in run.outcomes] == sorted(o.at_s for o in run.outcomes)
    assert run.report.server_rss_mb is None


@pytest.mark.lengthy
def test_a_closed_loop_keeps_its_clients_busy() -> None:
    fake = FakeServer([OK])

    run = _drive(fake, Load(0.2, clients=3, deadline_ms=5000))

    assert run.report.answered == run.report.requests >= 3
    assert run.report.goodput == run.report.throughput
    assert fake.connections <= 3


def test_the_warm_up_is_sent_and_not_measured() -> None:
    fake = FakeServer([OK])

    run = _drive(fake, Load(0.1, rate=100, arrivals="constant", warm_up_s=0.1))

    assert run.report.requests == 10
    assert len(fake.bodies) > 10
    assert run.report.connections_opened < 10  # those of the warm-up are used again


@pytest.mark.lengthy
def test_each_measured_response_is_handed_out_with_its_request() -> None:
    seen: list[tuple[bytes, int]] = []

    run = _drive(
        FakeServer([OK, OVERLOADED, b""]),  # an empty reply disconnects
        Load(0.3, rate=100, arrivals="constant", warm_up_s=0.1),
        on_response=lambda request, response: seen.append((request, response.status)),
    )

    assert {request for request, _ in seen} == {REQUEST}
    assert Counter(str(status) for _, status in seen) == run.report.statuses
    assert run.report.errors["disconnected"] > 0


def test_without_keep_alive_a_load_opens_a_connection_per_request() -> None:
    run = _drive(FakeServer([OK]), Load(0.1, rate=100, arrivals="constant", keep_alive=False))

    assert run.report.connections_opened == 10


def test_the_servers_tree_is_measured_when_its_process_is_named() -> None:
    run = _drive(FakeServer([OK]), Load(0.1, rate=100), server_pid=os.getpid())

    assert run.report.server_rss_mb is not None
    assert run.report.server_rss_mb > 1
    assert run.report.server_threads
    assert run.report.server_open_files


def test_batch_sizes_are_only_those_of_the_run() -> None:
    class Counting(FakeServer):
        """Its second page counts three more batches of four."""

        async def _write(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
            await super()._write(writer, reply)
            later = METRICS.replace(" 5.0", " 8.0").replace(" 6.0", " 9.0").replace("24", "36")
            self.page = later.encode()

    run = _drive(Counting([OK], page=METRICS.encode()), Load(0.05, rate=100))

    assert run.report.batch_size_mean == 4
    assert run.report.batch_sizes == {"1.0": 0, "4.0": 3, "+Inf": 0}


def test_a_server_without_metrics_has_no_batch_sizes() -> None:
    run = _drive(FakeServer([OK]), Load(0.05, rate=100))

    assert run.report.batch_size_mean is None
    assert run.report.batch_sizes == {}


@pytest.mark.parametrize(
    "text", ["", "<html>", 'tidegate_batch_size_bucket{le="x"} 1', "tidegate_batch_size_count x"]
)
def test_a_page_without_the_histogram_is_none(text: str) -> None:
    assert parse(text) is None


def test_predictions_are_returned_as_pairs_when_requested() -> None:
    timed = response(b'{"timing_ms": {"total": 50}}', 200, b"Server-Timing: predicted;dur=40\r\n")
    load: dict[str, Any] = {"duration_s": 0.05, "rate": 100, "arrivals": "constant"}

    asked = _drive(FakeServer([timed]), Load(**load, predictions=True))
    unasked = _drive(FakeServer([timed]), Load(**load))

    assert asked.predictions == [(40.0, 50.0)] * 5
    assert asked.report.prediction["median_relative_error"] == pytest.approx(-0.2)
    assert unasked.predictions == []
    assert unasked.report.prediction == {}


@pytest.mark.lengthy
def test_progress_is_reported_while_a_load_runs_and_at_its_end() -> None:
    seen: list[Progress] = []

    run = _drive(FakeServer([OK]), Load(0.8, rate=50), on_progress=seen.append)

    assert len(seen) >= 2
    assert 0 < seen[0].done < seen[-1].done == seen[-1].answered == run.report.answered
    assert seen[0].p50_ms is not None


def test_progress_counts_each_outcome_once_and_only_recent_latencies() -> None:
    ledger = Ledger()
    ledger.outcomes += [Outcome(0.5, 0.5, 0.0, status=200, at_s=100.0)]
    ledger.progress(started=100.0, now=101.0)
    ledger.outcomes += [
        Outcome(0.1, 0.1, 0.0, status=200, at_s=109.5),
        Outcome(0.1, 0.1, 0.0, status=503, at_s=109.5),
        Outcome(0.1, 0.1, 0.0, error="timeout", at_s=109.5),
        Outcome(0.1, 0.1, 0.0, vanished=True, at_s=109.5),
    ]

    progress = ledger.progress(started=100.0, now=110.0)

    assert (progress.answered, progress.refused, progress.errors, progress.vanished) == (2, 1, 1, 1)
    assert progress.done == 5
    assert progress.answered_per_s == 1
    assert progress.p99_ms == pytest.approx(100)


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ({}, "either a rate"),
        ({"rate": 1.0, "clients": 1}, "either a rate"),
        ({"rate": 0.0}, "above 0"),
        ({"clients": 0}, "above 0"),
        ({"rate": 1.0, "duration_s": 0.0}, "above 0"),
        ({"rate": 1.0, "vanish": 1.5}, "share from 0 to 1"),
    ],
)
def test_an_invalid_load_raises(numbers: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Load(**{"duration_s": 1.0, **numbers})


def test_a_missing_process_stops_the_load() -> None:
    with pytest.raises(ProcessLookupError):
        _drive(FakeServer([OK]), Load(0.05, rate=100), server_pid=2**22 + 1)


def test_a_server_that_exits_during_a_run_raises() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:

        def end(progress: Progress) -> None:
            process.kill()
            process.wait()

        with pytest.raises(MeasurementFailed, match="exited during the run"):
            _drive(FakeServer([OK]), Load(0.1, 50), server_pid=process.pid, on_progress=end)
