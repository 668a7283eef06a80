"""The committed dashboards, parsed for their tests."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "docker" / "grafana"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "dashboards").glob("*.json"))
}
# Values of the dashboard's variables; the interval suits a scrape every second.
CHOSEN = {
    "$__rate_interval": "30s",
    "$instance": ".*",
    "$window": "1h",
    "$model": "m",
    "$version": ".*",
    "$job": "tidegate",
}


def panels(board: str) -> list[dict[str, Any]]:
    """Return a dashboard's panels, without the rows' headings."""
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] != "row"]


def queries(board: str) -> list[tuple[str, str]]:
    """Return (title, PromQL) of every query of a dashboard, with its variables replaced."""
    found = []
    for panel in panels(board):
        for target in panel["targets"]:
            text = target["expr"]
            for variable, value in CHOSEN.items():
                text = text.replace(variable, value)
            found.append((panel["title"], text))
    return found
