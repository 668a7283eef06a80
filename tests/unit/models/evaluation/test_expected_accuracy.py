from __future__ import annotations

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.expected_accuracy import check_expected
from tidegate.models.evaluation.intervals import wilson_share


@pytest.mark.parametrize("expected", [None, 0.5, 0.9, 0.93])
def test_an_accuracy_within_the_interval_or_above_is_accepted(expected: float | None) -> None:
    check_expected(wilson_share(180, 200), expected)  # 85.1 to 93.4 %


def test_an_accuracy_that_training_cannot_have_reported_is_refused() -> None:
    with pytest.raises(BuildRefused, match=r"200 test images is 90.0% .* is 95.0%\. Usual reasons"):
        check_expected(wilson_share(180, 200), 0.95)
