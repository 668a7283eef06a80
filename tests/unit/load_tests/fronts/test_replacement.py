"""What was lost with a front end, and how soon another one answered."""

from pathlib import Path

import pytest

from load_tests.errors import MeasurementFailed
from load_tests.fronts.replacement import Replacement, findings_of_replacements, pid_of_first


def test_the_slowest_replacement_and_the_largest_loss_decide() -> None:
    findings = findings_of_replacements([Replacement(0.9, 3), Replacement(2.1, 17)], 32, 2)

    assert [(one.value, one.met) for one in findings] == [
        (pytest.approx(1.5), None),
        (2.1, False),
        (17, False),
    ]


def test_the_victim_is_the_process_that_was_started_last(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '{"message":"front end 0 is up (pid 7)"}\n{"message":"front end 1 is up (pid 8)"}\n'
        '{"message":"front end 0 is up (pid 9)"}\n'
    )
    assert pid_of_first(log) == 9

    log.write_text("")
    with pytest.raises(MeasurementFailed):
        pid_of_first(log)
