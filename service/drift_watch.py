"""Looks at the drift monitors now and then: tells metrics and log, and keeps their state."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from service.drift import state
from service.drift.monitor import Monitor, Report
from service.metrics import DriftGauges

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 10.0
_SAVE_EVERY = 6  # looks


class DriftWatch:
    """One model's monitors, looked at on the event loop that feeds them."""

    def __init__(
        self, monitor: Monitor, gauges: DriftGauges, digest: str, path: Path | None
    ) -> None:
        """Keep the state in the file `path`, for the bundle with this digest; None keeps none."""
        self._monitor = monitor
        self._gauges = gauges
        self._digest = digest
        self._path = path
        self._alarms: frozenset[str] = frozenset()

    def restore(self) -> None:
        """Go on from the file, if it is this bundle's; say in the log when it is not."""
        if self._path is not None and (why := state.load(self._path, self._monitor, self._digest)):
            log.info("drift monitors start anew from %s: %s", self._path, why)
        self.look()

    def look(self) -> Report:
        """Publish what the monitors know, and log each alarm that began or ended."""
        report = self._monitor.report()
        alarms = report.alarms
        for name in sorted(alarms - self._alarms):
            log.warning("drift: %s alarms after %d images", name, report.images)
        for name in sorted(self._alarms - alarms):
            log.info("drift: %s is quiet again", name)
        for name, detector in report.detectors.items():
            evidence = detector.statistic / detector.threshold
            self._gauges.detector(name, alarm=detector.alarm, evidence=evidence)
        for name, found in report.histograms.items():
            z, psi_excess = found.shift.z, found.shift.psi_excess
            self._gauges.histogram(name, alarm=found.alarm, z=z, psi_excess=psi_excess)
        if (moved := report.embedding) is not None:
            z, distance = moved.shift.z, moved.shift.distance
            self._gauges.embedding(alarm=moved.alarm, z=z, distance=distance)
        if report.expected_accuracy is not None:
            self._gauges.expected_accuracy(report.expected_accuracy)
        if (shift := report.label_shift) is not None:
            self._gauges.label_shift(shift.fractions.tolist(), shift.residual_z)
        self._alarms = alarms
        return report

    async def run(self) -> None:
        """Look and save until cancelled, then save once more."""
        looks = 0
        try:
            while True:
                await asyncio.sleep(_LOOK_EVERY_S)
                self.look()
                looks += 1
                if looks % _SAVE_EVERY == 0:
                    await self._save()
        finally:
            await self._save()

    async def _save(self) -> None:
        if self._path is None:
            return
        try:
            await asyncio.to_thread(state.save, self._path, self._monitor.state(), self._digest)
        except OSError as error:
            log.warning("drift monitors' state was not saved to %s: %s", self._path, error)
