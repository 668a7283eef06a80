"""What becomes of a notification: filed, filed already, held back, or noted as over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.retrain.alerts import Alert, Drift, Notification, drifts
from models.retrain.errors import NotFiled
from models.retrain.evidence import Standing, gather, standing
from models.retrain.folder import RESOLVED, RESULT, RequestFolder, beside, load
from models.retrain.prometheus import Ask
from models.retrain.samples import sampled

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
        """Return an outcome for each model. Blocks: it asks Prometheus and writes to the disk.

        Raises NotFiled when the folder cannot be written; nothing is lost, as the sender repeats.
        """
        try:
            return [outcome for drift in drifts(notification) for outcome in self._take(drift)]
        except OSError as error:
            raise NotFiled(f"The folder of requests cannot be used: {error.strerror}.") from error

    def _take(self, drift: Drift) -> list[dict[str, Any]]:
        outcomes = []
        if drift.resolved:
            noted = self.folder.record_resolved(drift)
            outcomes += [_told(drift, "resolved", name) for name in noted] or [
                _told(drift, "resolved", None)
            ]
        if drift.firing:
            outcomes.append(self._fire(drift))
        for outcome in outcomes:
            log.info("%(model)s %(version)s: %(outcome)s, request %(request)s", outcome)
        return outcomes

    def _fire(self, drift: Drift) -> dict[str, Any]:
        now = self.now()
        known = standing(self.ask, drift.subject, now.timestamp())
        if there := self.folder.recent(drift, known.digests, now):
            return _told(drift, "already-filed", there.name)
        if known.gate == "firing" or drift.names_the_gate:
            return _told(drift, "held-back", None)
        request = {**_alerts(drift), **self._evidence(drift, known, now)}
        path, is_new = self.folder.file(drift, known.digests, now, request)
        if not is_new:
            return _told(drift, "already-filed", path.name)
        self.on_filed(path)
        return _told(drift, "filed", path.name)

    def _evidence(self, drift: Drift, known: Standing, now: datetime) -> dict[str, Any]:
        found = gather(self.ask, drift.subject, now.timestamp())
        return {
            "instances": known.instances,
            "ood_alert": known.gate,
            "evidence": {**found, "missing": known.missing + found["missing"]},
            "samples": sampled(self.review_dir, self.samples, drift.seed, now),
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
