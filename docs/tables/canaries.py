"""How often simulated canaries are rolled back or promoted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docs.tables.markdown import table

CANARIES = Path(__file__).parents[2] / "tests" / "unit" / "rollout" / "canaries.json"


def equal_canaries() -> str:
    """Return a row for each simulated traffic: how often an equal canary is rolled back."""
    rows = [
        (_share(row), str(row["run"]), f"{row['rolled_back']} of {row['runs']:,}")
        for row in _canaries()
        if row["name"] == "equal"
    ]
    return table(("share", "like images in a run", "rolled back"), rows)


def promoted_canaries() -> str:
    """Return a row for each simulated traffic: after how many images a canary is promoted."""
    rows = [
        (_share(row), str(row["run"]), _quantiles(row["until_promotable"]))
        for row in _canaries()
        if row["name"] == "promoted"
    ]
    return table(("share", "like images in a run", "images of the canary"), rows)


def worse_canaries() -> str:
    """Return a row for each simulated fault of a canary, with a column for each traffic."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in _canaries():
        if row["name"] not in ("equal", "promoted"):
            until = _quantiles(row["until_rollback"])
            found.setdefault(row["name"], {})[_share(row), row["run"]] = until
    columns = list(next(iter(found.values())))
    head = [
        "canary",
        *(f"share {share}" + f", runs of {run}" * (run > 1) for share, run in columns),
    ]
    rows = [(name, *(cells[column] for column in columns)) for name, cells in found.items()]
    return table(head, rows)


def _canaries() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(CANARIES.read_text("utf-8"))["rows"]
    return rows


def _share(row: dict[str, Any]) -> str:
    return "rising" if row["share"] is None else str(row["share"])


def _quantiles(quantiles: Sequence[int | None]) -> str:
    """Return a median and a 90 % quantile of images; a dash for one that was not reached."""
    median, most = ("–" if images is None else f"{images:,}" for images in quantiles)
    return f"{median} ({most})"
