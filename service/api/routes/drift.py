"""The response body of GET /drift."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import Field

from tidegate.service.api.bodies import model_ref
from tidegate.service.api.schemas import Body, ModelRef
from tidegate.service.bundle.store import Bundle
from tidegate.service.drift.monitor import Report
from tidegate.service.drift.words import findings, outlook


class ClassChangeBody(Body):
    """A class whose share has changed."""

    class_id: int
    label: str
    before: float = Field(description="its share in the reference, or of the days before")
    now: float


class FindingBody(Body):
    """An alarm in words."""

    monitor: str
    text: str = Field(description="what changed, since when and how sure that is")
    since: str | None = Field(description="UTC; null if it is unknown")
    ends_after: int | None = Field(
        description="images without further evidence after which the alarm ends; null: at most 36 "
        "hours of usual traffic"
    )
    classes: list[ClassChangeBody]


class LearnedBody(Body):
    """What the monitors have learned about ordinary traffic."""

    days: int = Field(description="from 7 on the rhythm of hours and weekdays is known; 28 at most")
    ood_design_effect: float = Field(
        description="images that count as much for rejections as one independent image"
    )
    class_design_effect: float = Field(description="the same about classes")
    near_duplicates: int = Field(description="images that were not counted again")


class DetectorBody(Body):
    """Updated with every image. Without a change, alarms are at least `run_length` images apart."""

    alarm: bool
    evidence: float = Field(description="the alarm starts at 1")


class ShareBody(Body):
    """Shares of the last 20 and 36 hours, compared every hour."""

    alarm: bool
    evidence: float = Field(description="the alarm starts at 1")


class HistogramBody(Body):
    """Recent images compared with the bundle's reference, or p-values with a uniform one."""

    alarm: bool = Field(description="true if z and psi_excess both exceed their limits")
    images: int
    z: float = Field(description="standard normal without drift; limit 5")
    psi_excess: float = Field(
        description="population stability index minus its expected value from noise; limit 0.1"
    )


class EmbeddingBody(Body):
    """The mean features of recent images compared with the bundle's reference."""

    alarm: bool = Field(description="true if z and distance both exceed their limits")
    images: int
    z: float = Field(description="standard normal without drift; limit 5")
    distance: float = Field(
        description="in standard deviations of one image, minus the expected value from noise; "
        "limit 0.5"
    )


class LabelShiftBody(Body):
    """Estimated shares of the true classes: those that best explain the predicted classes."""

    fractions: list[float] = Field(description="by class id")
    residual_z: float = Field(
        description="large if no mix of the known classes explains the predictions"
    )


class DriftBody(Body):
    """The drift monitors of this process. Prometheus's rules cover all replicas."""

    model: ModelRef
    images: int = Field(description="images answered or rejected since the state was created")
    alarms: list[str]
    findings: list[FindingBody] = Field(description="one for each alarm")
    outlook: list[str] = Field(description="what could have been noticed by now, and what not")
    learned: LearnedBody
    run_length: float
    detectors: dict[str, DetectorBody]
    shares: dict[str, ShareBody]
    histograms: dict[str, HistogramBody]
    embedding: EmbeddingBody | None = Field(
        description="null if the bundle has no reference for its features"
    )
    label_shift: LabelShiftBody | None = Field(
        description="null if the bundle has no confusion matrix"
    )
    expected_accuracy: float | None = Field(
        description="estimate: the mean probability of recently predicted classes"
    )


def drift_body(bundle: Bundle, report: Report) -> DriftBody:
    """Return a report as a response body."""
    shift, moved = report.label_shift, report.embedding
    return DriftBody(
        model=model_ref(bundle),
        images=report.images,
        alarms=sorted(report.alarms),
        findings=[
            FindingBody(
                monitor=found.monitor,
                text=found.text,
                since=found.since,
                ends_after=found.ends_after,
                classes=[ClassChangeBody(**asdict(one)) for one in found.classes],
            )
            for found in findings(report, bundle.labels)
        ],
        outlook=outlook(report, bundle.labels),
        learned=LearnedBody(**asdict(report.learned)),
        run_length=report.run_length,
        detectors={
            name: DetectorBody(alarm=found.alarm, evidence=found.statistic / found.threshold)
            for name, found in report.detectors.items()
        },
        shares={
            name: ShareBody(alarm=found.alarm, evidence=found.evidence)
            for name, found in report.shares.items()
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
