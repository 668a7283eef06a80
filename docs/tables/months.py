"""How often the drift monitors alarm in simulated months without a change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from docs.tables.markdown import table
from tidegate.models.evaluation.intervals import beta_share
from tidegate.service.drift.monitor import RUN_LENGTH

MONTHS = Path(__file__).parents[2] / "tests" / "unit" / "drift" / "months.json"


def quiet_months() -> str:
    """Return a row for each simulated traffic: the months in which a monitor alarms."""
    head = ("traffic", "months", "with an alarm (95 %)", "alarms", "declared for each monitor")
    return table(head, _rows(json.loads(MONTHS.read_text("utf-8"))["months"]))


def _rows(months: dict[str, dict[str, Any]]) -> Iterator[Sequence[str]]:
    for name, found in months.items():
        alarms: Counter[str] = Counter()
        for one in found["alarms"]:
            alarms.update({monitor: n for monitor, n in one.items() if monitor != "seed"})
        share = beta_share(len(found["alarms"]), found["seeds"])
        interval = f"{100 * share.low:.1f} to {100 * share.high:.1f} %"
        yield (
            name.replace("%", " %"),
            str(found["seeds"]),
            f"{len(found['alarms'])} ({interval})",
            ", ".join(f"{monitor} {n}" for monitor, n in sorted(alarms.items())) or "none",
            f"{100 * min(1, found['images'] / RUN_LENGTH):.1f} %",
        )
