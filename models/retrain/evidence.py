"""Evidence for a drift, collected from Prometheus for a person to review.

Any part may be missing: the request is filed anyway and lists the missing parts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tidegate.models.retrain.alerts import OOD_ALERT, Drift, Subject
from tidegate.models.retrain.errors import PrometheusUnavailable, QueryRefused
from tidegate.models.retrain.prometheus import RunQuery, Sample, finite

Gate = Literal["firing", "pending", "inactive", "unknown"]
Labels = Mapping[str, str]  # class id → label
TOP_CLASSES = 10
_MONITOR_WINDOWS = ("1h", "6h", "1d")  # for alerts without a window
_ENOUGH_IMAGES = 100  # the rules compute no z below
_MAX_SERIES = 500  # recorded series in a request
_WINDOWED = re.compile(r"(.*?)(\d+[smhdw])")
_INFO = ("instance", "digest", "preprocess_digest", "engine", "precision", "device")

# Recorded series are selected by prefix, so a new rule needs no change here. Series by class are
# queried as counts.
QUERIES = {
    "recorded": '{__name__=~"tidegate:.+",class="",$subject}',
    "observed": "sum by (class) (increase(tidegate_predictions_total{$subject}[$window]))",
    "reference": "max by (class, label) (tidegate_reference_class_fraction{$subject})",
    "reference_samples": "max(tidegate_reference_samples{$subject})",
    "monitors": 'max by (__name__, monitor) ({__name__=~"tidegate_drift_.+",class="",$subject})',
    "label_shift": "max by (class) (tidegate_drift_label_shift_fraction{$subject})",
    "p_values": "sum by (le) (increase(tidegate_ood_p_value_bucket{$subject}[$window]))",
    "decisions": "sum by (decision) (increase(tidegate_ood_decisions_total{$subject}[$window]))",
    "alphas": "max by (threshold) (tidegate_ood_alpha{$subject})",
}
IMAGES_QUERY = "sum(increase(tidegate_ood_decisions_total{$subject}[$window]))"
INFO_QUERY = "tidegate_model_info{$subject}"
# A model removed up to a day ago may still be in the windows of the rules.
KNOWN_QUERY = "last_over_time(tidegate_model_info{$subject}[1d])"
GATE_QUERY = f'ALERTS{{alertname="{OOD_ALERT}",$subject}}'


def query_about(query: str, subject: Subject, window: str = "") -> str:
    """Return the query with the window and the subject's label matchers filled in."""
    # The window first: the subject's labels come from the sender and may contain "$window".
    return query.replace("$window", window).replace("$subject", subject.selector)


@dataclass(frozen=True, slots=True)
class ServingState:
    """The state that decides whether a request is filed."""

    instances: list[dict[str, str]]  # labels of each serving instance
    digests: frozenset[str]  # the alert's, or those of the served bundles; empty if unknown
    gate: Gate  # state of the OOD rate's alert
    missing: list[str]
    is_known: bool  # also if Prometheus could not be queried


@dataclass(slots=True)
class Inquiry:
    """Runs queries for one subject at one time, and records those that failed."""

    run_query: RunQuery
    subject: Subject
    at_s: float
    window: str = ""
    missing: list[str] = field(default_factory=list)
    _down: str = ""  # the reason, once Prometheus is unavailable

    def __call__(self, part: str, query: str) -> list[Sample]:
        """Return the query's samples, or an empty list if it fails."""
        if not self._down:
            try:
                return self.run_query(query_about(query, self.subject, self.window), self.at_s)
            except QueryRefused as error:
                self.missing.append(f"{part}: {error}")
                return []
            except PrometheusUnavailable as error:
                self._down = str(error)
        self.missing.append(f"{part}: {self._down}")
        return []


def serving_state(run_query: RunQuery, subject: Subject, at_s: float) -> ServingState:
    """Query which bundles are served, and whether the OOD rate's alert fires."""
    inquire = Inquiry(run_query, subject, at_s)
    states = {s.labels.get("alertstate") for s in inquire("OOD alert", GATE_QUERY)}
    gate = _state(states, known=not inquire.missing)
    info = inquire("digests", INFO_QUERY)
    instances = [{name: s.labels.get(name, "") for name in _INFO} for s in info]
    # A model is unknown only if Prometheus answers so: an outage must not lose a request.
    is_known = bool(info or inquire("known model", KNOWN_QUERY) or inquire.missing)
    served = frozenset(i["digest"] for i in instances if i["digest"])
    digests = frozenset([subject.digest]) if subject.digest else served
    return ServingState(instances, digests, gate, inquire.missing, is_known)


def _state(states: set[str | None], *, known: bool) -> Gate:
    if "firing" in states:
        return "firing"
    if "pending" in states:
        return "pending"
    return "inactive" if known else "unknown"


def gather(run_query: RunQuery, drift: Drift, at_s: float) -> tuple[dict[str, Any], Labels]:
    """Return the evidence over the alerts' window as JSON values, and the labels of the classes."""
    inquire = Inquiry(run_query, drift.subject, at_s)
    inquire.window = drift.window or _window_with_images(inquire)
    found = {part: inquire(part, query) for part, query in QUERIES.items()}
    samples = next((s.value for s in found["reference_samples"]), math.nan)
    observed, reference = _by("class", found["observed"]), _by("class", found["reference"])
    labels = {s.labels.get("class", ""): s.labels.get("label", "") for s in found["reference"]}
    parts = {
        "windows": windows(found["recorded"]),
        "monitors": monitors(found["monitors"]),
        "shifted_classes": shifted(observed, reference, samples, labels),
        "label_shift": _mix(_by("class", found["label_shift"]), reference, labels),
        "p_values": histogram(_by("le", found["p_values"])),
        "ood": _ood(_by("decision", found["decisions"]), _by("threshold", found["alphas"])),
    }
    failed = {line.partition(":")[0] for line in inquire.missing}
    empty = [f"{p}: no series" for p, answer in found.items() if not answer and p not in failed]
    return {"window": inquire.window, **parts, "missing": inquire.missing + empty}, labels


def _window_with_images(inquire: Inquiry) -> str:
    """Return the shortest window with enough images, so that a recent change is not diluted."""
    for window in _MONITOR_WINDOWS[:-1]:
        inquire.window = window
        if any(sample.value >= _ENOUGH_IMAGES for sample in inquire("images", IMAGES_QUERY)):
            return window
        if inquire.missing:
            break
    return _MONITOR_WINDOWS[-1]


def windows(recorded: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    """Return recorded values by window: tidegate:class_mix:psi1h is class_mix:psi for 1h.

    Values without a window are under "now".
    """
    found: dict[str, dict[str, float | None]] = {}
    for sample in recorded[:_MAX_SERIES]:
        name = sample.labels.get("__name__", "").removeprefix("tidegate:")
        split = _WINDOWED.fullmatch(name)
        measure, window = split.groups() if split else (name, "now")
        more = [
            f'{label}="{text}"'
            for label, text in sorted(sample.labels.items())
            if label not in {"__name__", "job", "model", "version", "digest"}
        ]
        measure += f"{{{','.join(more)}}}" if more else ""
        found.setdefault(window, {})[measure] = finite(sample.value)
    return found


def monitors(found: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    """Return the largest values of the replicas' own monitors, by monitor and measure.

    A measure that belongs to no monitor is under its own name.
    """
    values: dict[str, dict[str, float | None]] = {}
    for sample in found[:_MAX_SERIES]:
        measure = sample.labels.get("__name__", "").removeprefix("tidegate_drift_")
        monitor = sample.labels.get("monitor", "")
        own = values.setdefault(monitor or measure, {})
        own[measure if monitor else "value"] = finite(sample.value)
    return values


def shifted(
    observed: Mapping[str, float],
    reference: Mapping[str, float],
    reference_samples: float,
    labels: Labels,
) -> list[dict[str, Any]]:
    """Return the classes that moved most, by the two-sample z of proportions.

    z = (O/N − R/n) / √(p̄(1 − p̄)(1/N + 1/n)), p̄ = (O + R)/(N + n), as in the recording rules:
    two samples, as the reference is a sample too.
    """
    total, n = sum(observed.values()), reference_samples
    if not (total > 0 and n > 0):
        return []
    rows: list[dict[str, Any]] = []
    for name in sorted(observed.keys() | reference.keys()):
        count, fraction = observed.get(name, 0.0), reference.get(name, 0.0)
        pooled = (count + fraction * n) / (total + n)
        spread = math.sqrt(max(0.0, pooled * (1 - pooled)) * (1 / total + 1 / n))
        z = (count / total - fraction) / spread if spread > 0 else 0.0
        rows.append(
            {
                "class_id": name,
                "label": labels.get(name, ""),
                "observed": round(count, 1),
                "observed_fraction": count / total,
                "reference_fraction": fraction,
                "z": z,
            }
        )
    return sorted(rows, key=lambda row: -abs(row["z"]))[:TOP_CLASSES]


def histogram(cumulative: Mapping[str, float]) -> list[dict[str, float]]:
    """Return the count in each bucket of a cumulative Prometheus histogram; le is the upper edge.

    The bucket +Inf is left out: p-values are at most 1, so it is empty.
    """
    bins, below = [], 0.0
    for le in sorted(map(float, cumulative)):
        count = next(value for text, value in cumulative.items() if float(text) == le)
        if math.isfinite(le):
            # `increase` extrapolates per series, so a difference may be slightly negative.
            bins.append({"le": le, "count": round(max(0.0, count - below), 3)})
        below = count
    return bins


def _ood(decisions: Mapping[str, float], alphas: Mapping[str, float]) -> dict[str, Any]:
    total = sum(decisions.values())
    rejected = decisions.get("reject", 0.0)
    flagged = rejected + decisions.get("review", 0.0)
    return {
        "images": round(total, 1),
        "reject_rate": rejected / total if total else None,
        "flagged_rate": flagged / total if total else None,
        "alphas": dict(alphas),
    }


def _mix(
    estimate: Mapping[str, float], reference: Mapping[str, float], labels: Labels
) -> list[dict[str, Any]]:
    """Return the classes whose estimated true share (maximum likelihood) moved most."""
    moved = {name: abs(value - reference.get(name, 0.0)) for name, value in estimate.items()}
    most = sorted(moved, key=lambda name: -moved[name])[:TOP_CLASSES]
    return [
        {
            "class_id": c,
            "label": labels.get(c, ""),
            "fraction": estimate[c],
            "reference_fraction": reference.get(c, 0.0),
        }
        for c in most
    ]


def _by(label: str, samples: Sequence[Sample]) -> dict[str, float]:
    return {s.labels.get(label, ""): s.value for s in samples if math.isfinite(s.value)}
