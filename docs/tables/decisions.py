"""The list of decisions, with the status that later ones give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from docs.tables.markdown import table

DECISIONS = Path(__file__).parents[1] / "decisions"
_HEADING = re.compile(r"# (\d+)\. (.+)")


def decisions() -> str:
    """Return a row for each decision: number, title with a link, status."""
    texts = {path: path.read_text("utf-8") for path in sorted(DECISIONS.glob("[0-9]*.md"))}
    titles = {}
    for path, text in texts.items():
        heading = _HEADING.match(text)
        if heading is None or f"{int(heading[1]):04d}" != path.name[:4]:
            raise SystemExit(f"{path}: the heading does not have the number of the file")
        titles[int(heading[1])] = (path, heading[2])
    statuses: dict[int, list[str]] = {number: [] for number in titles}
    for number, (path, _) in titles.items():
        for verb, targets, whole in _changes(texts[path]):
            for target in targets:
                part = "" if whole or verb == "extended" else " in part"
                statuses[target].append(f"{verb}{part} by [{number}]({path.name})")
    rows = [
        (str(number), f"[{title}]({path.name})", "; ".join(statuses[number]) or "accepted")
        for number, (path, title) in sorted(titles.items())
    ]
    return table(("number", "decision", "status"), rows)


def _changes(text: str) -> Iterable[tuple[str, list[int], bool]]:
    """Yield what a decision says of earlier ones: its lines that begin with these words."""
    for line in text.splitlines():
        targets = [int(n) for n in re.findall(r"\b(?:decision|in|to) (\d+)\b", line)]
        if line.startswith("Supersedes "):
            whole = re.fullmatch(r"Supersedes decision \d+\.", line) is not None
            yield "superseded", targets, whole
        elif line.startswith("Adds to "):
            yield "extended", targets, False
