"""Interleaved rounds to ratios, and the tables made of them."""

import pytest

from load_tests.comparison.ratios import (
    BARE,
    BARE_ALL_CORES,
    ONE,
    Measured,
    Spread,
    Standing,
    standings,
    tables,
)
from load_tests.errors import MeasurementFailed

CLOSED = "8 clients"


def _measured(
    name: str,
    number: int,
    per_s: float = 100,
    cpu_ms: float = 10,
    load: str = CLOSED,
    **more: object,
) -> Measured:
    given: dict[str, object] = {"block": load, "p50_ms": 80.0, **more}
    return Measured("small", number, name=name, load=load, per_s=per_s, cpu_ms=cpu_ms, **given)  # type: ignore[arg-type]  # the tests' own words


def _of(found: list[Standing], name: str, load: str = CLOSED) -> Standing:
    return next(s for s in found if (s.name, s.load) == (name, load))


def test_ratios_are_taken_within_the_round_and_not_between_medians() -> None:
    measured = [
        _measured(BARE, 0, 220, 8),
        _measured("ours", 0, 200, 10),
        _measured(BARE, 1, 110, 16),
        _measured("ours", 1, 100, 20),  # a slow machine
        _measured(BARE, 2, 400, 2),
        _measured("ours", 2, 200, 10),
    ]

    figures = _of(standings(measured), "ours").figures

    assert figures["throughput_ratio"] == Spread(200 / 220, 0.5, 200 / 220)
    assert figures["cpu_ratio"] == Spread(1.25, 1.25, 5.0)
    assert figures["per_s"] == Spread(200, 100, 200)


def test_only_what_was_measured_in_one_block_is_divided() -> None:
    measured = [
        _measured(BARE, 0, 200, block="ours"),
        _measured("ours", 0, 100, block="ours"),
        _measured(BARE, 0, 50, block="theirs"),
        _measured("theirs", 0, 100, block="theirs"),
        _measured("alone", 0, 100, block="alone"),
    ]

    found = standings(measured)

    assert _of(found, "ours").figures["throughput_ratio"].median == 0.5
    assert _of(found, "theirs").figures["throughput_ratio"].median == 2
    assert "throughput_ratio" not in _of(found, "alone").figures


def test_one_client_is_compared_with_a_single_image_on_one_core_and_on_all() -> None:
    measured = [
        _measured(BARE, 0, load=ONE, p50_ms=8.0),
        _measured(BARE_ALL_CORES, 0, load=ONE, p50_ms=5.0),
        _measured("ours", 0, load=ONE, p50_ms=10.0),
    ]

    figures = _of(standings(measured), "ours", ONE).figures

    assert figures["p50_ratio"].median == 1.25
    assert figures["p50_ratio_all_cores"].median == 2
    assert "throughput_ratio" not in figures


def test_a_server_that_answered_nothing_has_no_ratio_rather_than_zero() -> None:
    measured = [_measured(BARE, 0), _measured("theirs", 0, 0, cpu_ms=None, p50_ms=None, failed=9)]  # type: ignore[arg-type]  # nothing answered

    standing = _of(standings(measured), "theirs")

    assert "cpu_ratio" not in standing.figures
    assert standing.failed == 9
    assert (
        "| theirs    |      0.0 |  0.000 |      – |      – |      – |      – |      9 |"
        in tables([standing, _of(standings(measured), BARE)])
    )


def test_the_table_has_the_best_first_and_the_range_of_its_ratios() -> None:
    measured = [
        _measured(BARE, 0, 100),
        _measured("slow", 0, 50),
        _measured("fast", 0, 110),
        _measured(BARE, 1, 100),
        _measured("slow", 1, 70),
        _measured("fast", 1, 120),
    ]

    lines = tables(standings(measured)).splitlines()

    assert lines[0] == "small, 8 clients"
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["fast", BARE, "slow"]
    assert "1.150 (1.10–1.20)" in lines[4]
    assert len({len(line) for line in lines[2:]}) == 1


def test_a_figure_without_values_raises() -> None:
    with pytest.raises(MeasurementFailed, match="no round"):
        Spread.of([])
