"""Handle a notification: file a request, or report why not, and record alerts that ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidegate.models.retrain.alerts import WINDOWS, Alert, Drift, Notification, drifts
from tidegate.models.retrain.errors import NotFiled
from tidegate.models.retrain.evidence import Labels, ServingState, gather, serving_state
from tidegate.models.retrain.folder import (
    RESOLVED,
    RESULT,
    NewRequest,
    RequestFolder,
    companion,
    load,
)
from tidegate.models.retrain.prometheus import RunQuery, until_down
from tidegate.models.retrain.samples import ReviewFolder, read_review_folder

log = logging.getLogger(__name__)

_LISTED = 100


@dataclass(frozen=True, slots=True)
class Receiver:
    """Handles notifications, also concurrently."""

    folder: RequestFolder
    run_query: RunQuery
    review_dir: Path | None
    samples: int
    on_filed: Callable[[Path], None]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def take(self, notification: Notification) -> list[dict[str, Any]]:
        """Return the outcomes for each model. Blocks: queries Prometheus and writes to the disk.

        Raises AlertsTooLarge or TooManyFiled with nothing filed, and NotFiled if the folder cannot
        be written; nothing is lost, as Alertmanager repeats the notification.
        """
        found = drifts(notification)
        try:
            outcomes = self._ended(found) + self._fire([drift for drift in found if drift.firing])
        except OSError as error:
            raise NotFiled(f"The request folder cannot be used: {error.strerror}.") from error
        for outcome in outcomes:
            log.info("%(model)s %(version)s: %(outcome)s, request %(request)s", outcome)
        return outcomes

    def _ended(self, found: Sequence[Drift]) -> list[dict[str, Any]]:
        ended = [drift for drift in found if drift.resolved]
        noted = self.folder.record_resolved(ended)
        return [
            _outcome(drift, "resolved", name)
            for drift, names in zip(ended, noted, strict=True)
            for name in (names or (None,))
        ]

    def _fire(self, firing: Sequence[Drift]) -> list[dict[str, Any]]:
        now, run_query = self.now(), until_down(self.run_query)
        states = [serving_state(run_query, drift.subject, now.timestamp()) for drift in firing]
        wanted = [NewRequest(d, s.digests) for d, s in zip(firing, states, strict=True)]
        outcomes: list[dict[str, Any]] = []
        due: list[tuple[Drift, ServingState]] = []
        there = self.folder.recent(wanted, now) if wanted else []
        for drift, known, path in zip(firing, states, there, strict=True):
            outcome = "already-filed" if path else _held_back(drift, known)
            if outcome:
                outcomes.append(_outcome(drift, outcome, path.name if path else None))
            else:
                due.append((drift, known))
        return outcomes + (self._file(due, run_query, now) if due else [])

    def _file(
        self, due: Sequence[tuple[Drift, ServingState]], run_query: RunQuery, now: datetime
    ) -> list[dict[str, Any]]:
        self.folder.check_rate(len(due), now)  # before collecting evidence, which is slow
        reviewed = read_review_folder(self.review_dir, now)
        wanted = [
            NewRequest(drift, known.digests, self._content(drift, known, run_query, reviewed, now))
            for drift, known in due
        ]
        filed = self.folder.file(wanted, now)
        for path, is_new in filed:
            if is_new:
                self.on_filed(path)
        return [
            _outcome(drift, "filed" if is_new else "already-filed", path.name)
            for (drift, _), (path, is_new) in zip(due, filed, strict=True)
        ]

    def _content(
        self,
        drift: Drift,
        known: ServingState,
        run_query: RunQuery,
        reviewed: ReviewFolder,
        now: datetime,
    ) -> dict[str, Any]:
        found, labels = gather(run_query, drift, now.timestamp())
        of_bundle = reviewed.of(drift.subject, now - WINDOWS[found["window"]])
        return {
            **_alerts(drift, labels),
            "instances": known.instances,
            "ood_alert": known.gate,
            "evidence": {**found, "missing": known.missing + found["missing"]},
            "samples": of_bundle.sampled(self.samples, drift.seed),
        }

    def listing(self) -> list[dict[str, Any]]:
        """Return the newest requests with their results. Blocks. Raises NotFiled."""
        try:
            newest = self.folder.newest()[:_LISTED]
        except OSError as error:
            raise NotFiled(f"The request folder cannot be used: {error.strerror}.") from error
        return [entry for path in newest if (entry := _entry(path))]


def _entry(path: Path) -> dict[str, Any] | None:
    request = load(path)
    if request is None:
        return None
    result, resolved = load(companion(path, RESULT)), load(companion(path, RESOLVED))
    kept = ("filed_at", "job", "model", "version", "digests", "fingerprints")
    ended = result or {}
    return {
        "name": path.name,
        **{name: request.get(name) for name in kept},
        "outcome": ended.get("outcome"),  # null: not run, or still running
        "exit_status": ended.get("exit_status"),
        "bundle": ended.get("bundle"),
        "reason": ended.get("reason", ""),
        "ended_at": (resolved or {}).get("ended_at", {}),
    }


def _held_back(drift: Drift, known: ServingState) -> str:
    """Return the outcome if nothing is filed, else an empty string."""
    if known.gate == "firing" or drift.names_the_gate:
        return "held-back"
    return "" if known.is_known else "unknown-model"


def _alerts(drift: Drift, labels: Labels) -> dict[str, Any]:
    return {
        "alerts": [_alert(alert, labels) for alert in drift.firing],
        "truncated_alerts": drift.truncated,
    }


def _alert(alert: Alert, labels: Labels) -> dict[str, Any]:
    named = alert.labels.model_dump(mode="json")
    return {
        "fingerprint": alert.fingerprint,
        "labels": named,
        "class_label": labels.get(named.get("class", ""), ""),
        "starts_at": alert.starts_at.isoformat(),
        "summary": alert.annotations.get("summary", ""),
    }


def _outcome(drift: Drift, outcome: str, request: str | None) -> dict[str, Any]:
    subject = drift.subject
    return {
        "job": subject.job,
        "model": subject.model,
        "version": subject.version,
        "digest": subject.digest,
        "outcome": outcome,
        "request": request,
    }
