"""What the drift monitors of a model publish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidegate.service.metrics.declared import Declared


class DriftGauges:
    """The results of the drift monitors; a monitor without data in the bundle has no series."""

    def __init__(self, declared: Declared, model: tuple[str, str, str]) -> None:
        self._model = model
        self._alarm = declared.gauge("drift_alarm")
        self._z = declared.gauge("drift_z")
        self._psi_excess = declared.gauge("drift_psi_excess")
        self._distance = declared.gauge("drift_embedding_distance")
        self._evidence = declared.gauge("drift_evidence_ratio")
        self._design_effect = declared.gauge("drift_design_effect_ratio")
        self._days = declared.gauge("drift_learned_days")
        self._near_duplicates = declared.counter("drift_near_duplicates").labels(*model)
        self._duplicates_counted: int | None = None  # not published yet
        self._accuracy = declared.gauge("expected_accuracy_ratio")
        self._fraction = declared.gauge("drift_label_shift_fraction")
        self._residual = declared.gauge("drift_label_shift_residual_z")

    def detector(self, monitor: str, *, alarm: bool, evidence: float) -> None:
        """Publish a detector's evidence as a multiple of its threshold."""
        self._alarm.labels(*self._model, monitor).set(alarm)
        self._evidence.labels(*self._model, monitor).set(evidence)

    def learned(self, design_effects: Mapping[str, float], days: int, near_duplicates: int) -> None:
        """Publish what the monitors have learned; design effects by monitor."""
        for monitor, effect in design_effects.items():
            self._design_effect.labels(*self._model, monitor).set(effect)
        self._days.labels(*self._model).set(days)
        # The monitors keep their number over restarts, a counter starts at 0.
        if self._duplicates_counted is not None:
            self._near_duplicates.inc(max(0, near_duplicates - self._duplicates_counted))
        self._duplicates_counted = near_duplicates

    def histogram(self, monitor: str, *, alarm: bool, z: float, psi_excess: float) -> None:
        """Publish the comparison of a histogram of recent images with its reference."""
        self._alarm.labels(*self._model, monitor).set(alarm)
        self._z.labels(*self._model, monitor).set(z)
        self._psi_excess.labels(*self._model, monitor).set(psi_excess)

    def embedding(self, *, alarm: bool, z: float, distance: float) -> None:
        """Publish the comparison of recent images' mean features with the reference."""
        self._alarm.labels(*self._model, "embedding").set(alarm)
        self._z.labels(*self._model, "embedding").set(z)
        self._distance.labels(*self._model).set(distance)

    def expected_accuracy(self, estimate: float) -> None:
        """Publish the estimated accuracy."""
        self._accuracy.labels(*self._model).set(estimate)

    def label_shift(self, fractions: Sequence[float], residual_z: float) -> None:
        """Publish the estimated shares of the true classes, [classes], and their residual."""
        for c, fraction in enumerate(fractions):
            self._fraction.labels(*self._model, c).set(fraction)
        self._residual.labels(*self._model).set(residual_z)
