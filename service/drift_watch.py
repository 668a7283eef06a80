"""Evaluates the drift monitors every few seconds: publishes, logs, and keeps their state."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from tidegate.service.drift import state
from tidegate.service.drift.monitor import Monitor
from tidegate.service.drift.report import Report
from tidegate.service.drift.state_arrays import State
from tidegate.service.drift.words import findings
from tidegate.service.metrics import DriftGauges

log = logging.getLogger(__name__)

_PUBLISH_EVERY_S = 10.0
_SAVE_EVERY = 6  # rounds
_LONGEST_PAUSE_S = 300.0  # each failure doubles the pause before the next attempt
_DEAD_AFTER = 3  # failures in a row


class DriftWatch:
    """Evaluates one model's monitors, on the event loop that updates them."""

    def __init__(
        self,
        monitor: Monitor,
        gauges: DriftGauges,
        labels: Sequence[str],
        digest: str,
        path: Path | None,
    ) -> None:
        """Keep the state of the bundle with this digest in the file `path`; None = disabled."""
        self._labels = labels
        self._monitor = monitor
        self._gauges = gauges
        self._digest = digest
        self._path = path
        self._alarms: frozenset[str] = frozenset()
        self._rounds = 0
        self._failures = 0
        self._save_error = ""
        self._writing = threading.Lock()
        self.failure = ""  # why drift is not monitored; "" while it is

    def restore(self) -> None:
        """Restore the state from the file; an unusable file is renamed and logged."""
        if self._path is not None and (why := state.load(self._path, self._monitor, self._digest)):
            if why == state.NONE_YET:
                log.info("drift monitors start without state: %s does not exist yet", self._path)
            else:
                _rename_unusable(self._path, why)
        self._try_to_publish()

    def publish(self) -> Report:
        """Publish the monitors' report, and log each alarm that started or was cleared."""
        report = self._monitor.report()
        self._log_alarms(report)
        for name, detector in report.detectors.items():
            evidence = detector.statistic / detector.threshold
            self._gauges.detector(name, alarm=detector.alarm, evidence=evidence)
        for name, share in report.shares.items():
            self._gauges.detector(name, alarm=share.alarm, evidence=share.evidence)
        for name, found in report.histograms.items():
            z, psi_excess = found.shift.z, found.shift.psi_excess
            self._gauges.histogram(name, alarm=found.alarm, z=z, psi_excess=psi_excess)
        learned = report.learned
        effects = {"ood-rate": learned.ood_design_effect, "class-mix": learned.class_design_effect}
        self._gauges.learned(effects, learned.days, learned.near_duplicates)
        if (moved := report.embedding) is not None:
            z, distance = moved.shift.z, moved.shift.distance
            self._gauges.embedding(alarm=moved.alarm, z=z, distance=distance)
        if report.expected_accuracy is not None:
            self._gauges.expected_accuracy(report.expected_accuracy)
        if (shift := report.label_shift) is not None:
            self._gauges.label_shift(shift.fractions.tolist(), shift.residual_z)
        return report

    def _log_alarms(self, report: Report) -> None:
        before, self._alarms = self._alarms, report.alarms
        for finding in findings(report, self._labels):
            if finding.monitor not in before:
                log.warning("drift: %s alarm: %s", finding.monitor, finding.text)
        for name in sorted(before - self._alarms):
            log.info("drift: %s alarm cleared", name)

    async def run(self) -> None:
        """Publish and save until cancelled, then save once more.

        A failure is logged and retried; after a failed publication the pause doubles. From the
        third failed publication in a row, `failure` has the reason, until one succeeds.
        """
        try:
            while True:
                await asyncio.sleep(min(_PUBLISH_EVERY_S * 2**self._failures, _LONGEST_PAUSE_S))
                if self._try_to_publish() and self._rounds % _SAVE_EVERY == 0:
                    await self._save()
        finally:
            await self._save()

    def _try_to_publish(self) -> bool:
        """Publish, and return whether it succeeded."""
        self._rounds += 1
        try:
            self.publish()
        except Exception as error:  # a bug in one monitor must not end the watch
            self._failures += 1
            log.exception("drift monitoring failed (%d in a row)", self._failures)
            if self._failures >= _DEAD_AFTER:
                self.failure = f"Drift is not monitored: {type(error).__name__}: {error}"
            return False
        if self._failures:
            log.info("drift monitoring recovered")
        self._failures, self.failure = 0, ""
        return True

    async def _save(self) -> None:
        """Save the state; log an error when it first occurs, changes or is resolved."""
        if self._path is None:
            return
        found = ""
        try:
            await asyncio.to_thread(self._write, self._path, self._monitor.state())
        except OSError as error:
            found = error.strerror or str(error)
        except Exception as error:  # noqa: BLE001 - a bug here must not end the watch either
            found = f"{type(error).__name__}: {error}"
        if found and found != self._save_error:
            log.warning("drift state was not saved to %s: %s", self._path, found)
        elif self._save_error and not found:
            log.info("drift state is saved to %s again", self._path)
        self._save_error = found

    def _write(self, path: Path, known: State) -> None:
        with self._writing:  # a cancelled save continues in its thread
            state.save(path, known, self._digest)


def _rename_unusable(path: Path, why: str) -> None:
    try:
        renamed = state.rename_unusable(path, why)
    except OSError as error:
        log.warning(
            "drift monitors start without state: %s: %s; cannot rename the file: %s",
            path,
            why,
            error,
        )
    else:
        log.warning(
            "drift monitors start without state: %s: %s; renamed to %s", path, why, renamed.name
        )
