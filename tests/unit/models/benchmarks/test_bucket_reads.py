"""The measurement of reading ahead reads a store that answers late, in both ways."""

from __future__ import annotations

import pytest

pytest.importorskip("obstore")

from tidegate.models.benchmarks.bucket_reads import measure

pytestmark = pytest.mark.lengthy


def test_both_ways_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT_URL", "ALLOW_HTTP", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION"):
        monkeypatch.setenv(f"AWS_{name}", "")  # restored at the end

    found = measure(0.01, processes=2, objects=40, turns=1)

    assert found["threads"] == 16
    assert 0 < found["one_by_one_per_s"] <= 100  # each waits a hundredth of a second
    assert found["ratio"] == pytest.approx(found["ahead_per_s"] / found["one_by_one_per_s"])
