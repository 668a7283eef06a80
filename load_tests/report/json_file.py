"""Save a result as JSON, together with its command and machine."""

import json
from datetime import UTC, datetime
from pathlib import Path

from load_tests.report.hardware import describe_machine


def record(command: str, result: dict[str, object]) -> dict[str, object]:
    """Return `result`, preceded by `command`, `measured_at` (UTC, ISO 8601) and `machine`."""
    return {
        "command": command,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        **result,
    }


def keep(path: Path | None, command: str, result: dict[str, object]) -> None:
    """Write the record of `result` to `path` and create its folders; do nothing if it is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record(command, result), indent=2) + "\n", encoding="utf-8")
