from __future__ import annotations

import pytest

from tidegate.service.serving.order import age


@pytest.mark.parametrize(
    "ascending",
    [
        "1 2 9 10 11",
        "v1 v2 v10",
        "1.0.0-alpha 1.0.0-alpha.1 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.1 1.2.0 1.10.0",
        "2026-09 2026-11 2026-11-02 2026-11-30",
        "3 3-int8 4",
        "01 1",  # the same number: by their text
        "1 b",
        "x-1 y-0",
    ],
)
def test_versions_are_sorted_from_the_oldest_to_the_newest(ascending: str) -> None:
    versions = ascending.split()
    backwards = versions[::-1]

    assert sorted(backwards, key=age) == versions
