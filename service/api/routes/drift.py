"""GET /drift as it goes over the wire."""

from __future__ import annotations

from pydantic import Field

from tidegate.service.api.schemas import Body, ModelRef, model_ref
from tidegate.service.bundle.store import Bundle
from tidegate.service.drift.monitor import Report


class DetectorBody(Body):
    """Looks after every image; false alarms are at least `run_length` images apart, on average."""

    alarm: bool
    evidence: float = Field(description="alarms from 1 on; ends an alarm below 0.05")


class HistogramBody(Body):
    """Recent images against the bundle's reference, or p-values against uniform ones."""

    alarm: bool = Field(description="z and psi_excess are both beyond their limits")
    images: int
    z: float = Field(description="standard normal while nothing changes; limit 5")
    psi_excess: float = Field(
        description="population stability index, less what noise gives; limit 0.1"
    )


class EmbeddingBody(Body):
    """The mean of recent images' features against the bundle's reference."""

    alarm: bool = Field(description="z and distance are both beyond their limits")
    images: int
    z: float = Field(description="standard normal while nothing changes; limit 5")
    distance: float = Field(
        description="in standard deviations of one image, less what noise gives; limit 0.5"
    )


class LabelShiftBody(Body):
    """The mix of true classes that explains the predicted ones best. An estimate."""

    fractions: list[float] = Field(description="by class id")
    residual_z: float = Field(description="large: no mix of the known classes explains them")


class DriftBody(Body):
    """What the monitors of this process know; Prometheus's rules know of all replicas."""

    model: ModelRef
    images: int = Field(description="answered or rejected since the monitors' state began")
    alarms: list[str]
    run_length: float
    detectors: dict[str, DetectorBody]
    histograms: dict[str, HistogramBody]
    embedding: EmbeddingBody | None = Field(
        description="null where the bundle has no reference of its features"
    )
    label_shift: LabelShiftBody | None = Field(
        description="null where the bundle has no confusion matrix"
    )
    expected_accuracy: float | None = Field(
        description="an estimate: the mean probability of the classes predicted lately"
    )


def drift_body(bundle: Bundle, report: Report) -> DriftBody:
    """Tell a report."""
    shift, moved = report.label_shift, report.embedding
    return DriftBody(
        model=model_ref(bundle),
        images=report.images,
        alarms=sorted(report.alarms),
        run_length=max(found.threshold for found in report.detectors.values()),
        detectors={
            name: DetectorBody(alarm=found.alarm, evidence=found.statistic / found.threshold)
            for name, found in report.detectors.items()
        },
        histograms={
            name: HistogramBody(
                alarm=found.alarm,
                images=found.images,
                z=found.shift.z,
                psi_excess=found.shift.psi_excess,
            )
            for name, found in report.histograms.items()
        },
        embedding=(
            None
            if moved is None
            else EmbeddingBody(
                alarm=moved.alarm,
                images=moved.images,
                z=moved.shift.z,
                distance=moved.shift.distance,
            )
        ),
        label_shift=(
            None
            if shift is None
            else LabelShiftBody(fractions=shift.fractions.tolist(), residual_z=shift.residual_z)
        ),
        expected_accuracy=report.expected_accuracy,
    )
