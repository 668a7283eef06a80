"""What front ends count is added up, and never falls."""

from __future__ import annotations

import json

import pytest

from tidegate.service.fronts.increments import Adding, Counting
from tidegate.service.metrics import Metrics


def over_the_wire(counting: Counting) -> list[tuple[str, list[str], list[float]]]:
    found: list[tuple[str, list[str], list[float]]] = json.loads(json.dumps(counting.take()))
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_counts_of_several_processes_are_added_up() -> None:
    whole, fronts = Metrics("test"), [Metrics("test") for _ in range(2)]
    for front in fronts:
        counting, adding = Counting(front), Adding(whole)
        for _ in range(3):
            front.request("/classify", 200, 0.004)
            front.stages["decode"].observe(0.002)
            front.shed("queue-full")
            adding.add(over_the_wire(counting))

    assert value(whole, "tidegate_requests_total", route="/classify", status="200") == 6
    assert value(whole, "tidegate_shed_total", reason="queue-full") == 6
    assert value(whole, "tidegate_stage_duration_seconds_count", stage="decode") == 6
    assert value(whole, "tidegate_stage_duration_seconds_sum", stage="decode") == pytest.approx(
        0.012
    )
    duration = "tidegate_request_duration_seconds_bucket"
    assert value(whole, duration, route="/classify", le="0.005") == 6
    assert value(whole, duration, route="/classify", le="0.0025") == 0


def test_what_has_not_changed_is_not_sent() -> None:
    front = Metrics("test")
    counting = Counting(front)
    front.shed("deadline")

    assert len(over_the_wire(counting)) == 1
    assert over_the_wire(counting) == []


def test_a_front_end_that_ends_leaves_its_counts_and_takes_its_gauges() -> None:
    whole, front = Metrics("test"), Metrics("test")
    adding = Adding(whole)
    front.inflight.inc(3)
    front.shed("deadline")
    adding.add(over_the_wire(Counting(front)))
    assert value(whole, "tidegate_inflight_requests") == 3

    adding.end()

    assert value(whole, "tidegate_inflight_requests") == 0
    assert value(whole, "tidegate_shed_total", reason="deadline") == 1


def test_a_client_that_is_configured_again_counts_from_0() -> None:
    whole, front = Metrics("test"), Metrics("test")
    counting, adding = Counting(front), Adding(whole)
    for _ in range(2):
        front.set_clients(frozenset({"a"}))
        front.client_request("a", 200)
        front.client_request("a", 200)
        adding.add(over_the_wire(counting))
        front.set_clients(frozenset())
    front.set_clients(frozenset({"a"}))
    front.client_request("a", 200)
    adding.add(over_the_wire(counting))

    assert value(whole, "tidegate_client_requests_total", client="a", status="200") in (3, 4, 5)


def test_an_unknown_metric_is_an_error() -> None:
    with pytest.raises(ValueError, match="no metric"):
        Adding(Metrics("test")).add([("x", [], [1.0])])
