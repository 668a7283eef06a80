"""What becomes of a notification: filed, filed already, held back, unknown, or noted as over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidegate.models.retrain.alerts import Alert, Drift, Notification, drifts
from tidegate.models.retrain.errors import NotFiled
from tidegate.models.retrain.evidence import Standing, gather, standing
from tidegate.models.retrain.folder import (
    RESOLVED,
    RESULT,
    EngineRequest,
    RequestFolder,
    beside,
    load,
)
from tidegate.models.retrain.prometheus import Ask, until_down
from tidegate.models.retrain.samples import ReviewFolder, read_review_folder

log = logging.getLogger(__name__)

_LISTED = 100


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes notifications, one after the other or side by side."""

    folder: RequestFolder
    ask: Ask
    review_dir: Path | None
    samples: int
    on_filed: Callable[[Path], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def take(self, notification: Notification) -> list[dict[str, Any]]:
        """Return outcomes for each model. Blocks: it asks Prometheus and writes to the disk.

        Raises AlertsTooLarge or TooManyFiled, with nothing filed, and NotFiled when the folder
        cannot be written; nothing is lost, as the sender repeats.
        """
        found = drifts(notification)
        try:
            outcomes = self._ended(found) + self._fire([drift for drift in found if drift.firing])
        except OSError as error:
            raise NotFiled(f"The folder of requests cannot be used: {error.strerror}.") from error
        for outcome in outcomes:
            log.info("%(model)s %(version)s: %(outcome)s, request %(request)s", outcome)
        return outcomes

    def _ended(self, found: Sequence[Drift]) -> list[dict[str, Any]]:
        ended = [drift for drift in found if drift.resolved]
        noted = self.folder.record_resolved(ended)
        return [
            _told(drift, "resolved", name)
            for drift, names in zip(ended, noted, strict=True)
            for name in (names or (None,))
        ]

    def _fire(self, firing: Sequence[Drift]) -> list[dict[str, Any]]:
        now, ask = self.now(), until_down(self.ask)
        standings = [standing(ask, drift.subject, now.timestamp()) for drift in firing]
        wanted = [EngineRequest(d, s.digests) for d, s in zip(firing, standings, strict=True)]
        outcomes: list[dict[str, Any]] = []
        due: list[tuple[Drift, Standing]] = []
        there = self.folder.recent(wanted, now) if wanted else []
        for drift, known, path in zip(firing, standings, there, strict=True):
            outcome = "already-filed" if path else _held_back(drift, known)
            if outcome:
                outcomes.append(_told(drift, outcome, path.name if path else None))
            else:
                due.append((drift, known))
        return outcomes + (self._file(due, ask, now) if due else [])

    def _file(
        self, due: Sequence[tuple[Drift, Standing]], ask: Ask, now: datetime
    ) -> list[dict[str, Any]]:
        self.folder.check_rate(len(due), now)  # before the evidence, which takes time
        reviewed = read_review_folder(self.review_dir, now)
        wanted = [
            EngineRequest(drift, known.digests, self._content(drift, known, ask, reviewed, now))
            for drift, known in due
        ]
        filed = self.folder.file(wanted, now)
        for path, is_new in filed:
            if is_new:
                self.on_filed(path)
        return [
            _told(drift, "filed" if is_new else "already-filed", path.name)
            for (drift, _), (path, is_new) in zip(due, filed, strict=True)
        ]

    def _content(
        self, drift: Drift, known: Standing, ask: Ask, reviewed: ReviewFolder, now: datetime
    ) -> dict[str, Any]:
        found = gather(ask, drift.subject, now.timestamp())
        return {
            **_alerts(drift),
            "instances": known.instances,
            "ood_alert": known.gate,
            "evidence": {**found, "missing": known.missing + found["missing"]},
            "samples": reviewed.sampled(self.samples, drift.seed),
        }

    def listing(self) -> list[dict[str, Any]]:
        """Return the newest requests with their results. Blocks. Raises NotFiled."""
        try:
            newest = self.folder.newest()[:_LISTED]
        except OSError as error:
            raise NotFiled(f"The folder of requests cannot be used: {error.strerror}.") from error
        return [entry for path in newest if (entry := _entry(path))]


def _entry(path: Path) -> dict[str, Any] | None:
    request = load(path)
    if request is None:
        return None
    result, resolved = load(beside(path, RESULT)), load(beside(path, RESOLVED))
    kept = ("filed_at", "job", "model", "version", "digests", "fingerprints")
    return {
        "name": path.name,
        **{name: request.get(name) for name in kept},
        "outcome": result and result.get("outcome"),  # null: not run, or still running
        "exit_status": result and result.get("exit_status"),
        "ended_at": (resolved or {}).get("ended_at", {}),
    }


def _held_back(drift: Drift, known: Standing) -> str:
    """Return why nothing is filed, or nothing."""
    if known.gate == "firing" or drift.names_the_gate:
        return "held-back"
    return "" if known.is_known else "unknown-model"


def _alerts(drift: Drift) -> dict[str, Any]:
    return {
        "alerts": [_alert(alert) for alert in drift.firing],
        "truncated_alerts": drift.truncated,
    }


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "fingerprint": alert.fingerprint,
        "labels": alert.labels.model_dump(mode="json"),
        "starts_at": alert.starts_at.isoformat(),
        "summary": alert.annotations.get("summary", ""),
    }


def _told(drift: Drift, outcome: str, request: str | None) -> dict[str, Any]:
    subject = drift.subject
    return {
        "job": subject.job,
        "model": subject.model,
        "version": subject.version,
        "outcome": outcome,
        "request": request,
    }
