"""Inputs that violated a rule, saved so that they can be sent again."""

import hashlib
import json
from collections import Counter
from pathlib import Path

from load_tests.fuzz.oracles import Violation

KEPT_PER_RULE = 50


class Failures:
    """Writes `DIGEST.bin`, the request as sent, and `DIGEST.json`, the violated rule."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.by_rule: Counter[str] = Counter()
        self.examples: dict[str, tuple[str, Path | None]] = {}  # rule → detail, file

    def add(self, violation: Violation, request: bytes, origin: str) -> None:
        """Count a violation; save the first KEPT_PER_RULE requests of its rule."""
        self.by_rule[violation.rule] += 1
        path = None
        if request and self.by_rule[violation.rule] <= KEPT_PER_RULE:
            path = self._keep(violation, request, origin)
        self.examples.setdefault(violation.rule, (f"{origin}: {violation.detail}", path))

    def _keep(self, violation: Violation, request: bytes, origin: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{hashlib.sha256(request).hexdigest()[:16]}.bin"
        path.write_bytes(request)
        facts = {
            "rule": violation.rule,
            "detail": violation.detail,
            "origin": origin,
            "repeat": f"python -m load_tests fuzz --replay {path}",
        }
        path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return path
