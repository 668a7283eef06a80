"""The example for Dask in the guide gives the rows of the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.clusters.conftest import BUNDLE
from tests.server import ROOT

pytest.importorskip("distributed", reason="needs dask[distributed]: make test-clusters")

pytestmark = pytest.mark.slow


def test_the_example_of_the_guide_runs(images: Path, expected: dict[str, Any]) -> None:
    from dask.distributed import Client, LocalCluster

    guide = (ROOT / "docs" / "guides" / "bulk.md").read_text("utf-8")
    [example] = re.findall(r"```python\n(import dask.*?)```", guide, re.DOTALL)
    code = example.replace('"images"', repr(str(images))).replace(
        '"models/bundles/efficientnet-lite0/1"', repr(str(BUNDLE))
    )
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        names: dict[str, Any] = {"__name__": "guide"}
        exec(code, names)  # noqa: S102 - the guide's

    found = {Path(path).name: outcome for path, outcome in names["rows"]}
    assert found == {name: row["decision"] or row["error"] for name, row in expected.items()}
