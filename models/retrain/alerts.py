"""Alertmanager's webhook payload, version 4, and the models that it concerns. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from tidegate.models.retrain.errors import AlertsRefused, AlertsTooLarge
from tidegate.service.bundle.manifest import Slug

OOD_ALERT = "TidegateOodRateHigh"
MAX_ALERTS = 200  # per notification: `max_alerts` in alertmanager.yml
MAX_SUBJECTS = 20  # per notification; the committed routes send one
# Windows of the recording rules, shortest first.
WINDOWS = {
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
}
_MAX_QUOTED = 200  # characters of the sender's text in an error message
_SUBJECT = ("job", "model", "version", "digest")
_Text = Annotated[str, Field(max_length=4096)]
_Labels = Annotated[dict[_Text, _Text], Field(max_length=64)]


class _Payload(BaseModel):
    """Ignores unknown fields, so that alerts of a newer Alertmanager are not lost."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class AlertLabels(_Payload):
    """The labels that identify the model; all other labels are kept too."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, _Text]

    alertname: Annotated[str, Field(min_length=1, max_length=200)]
    job: _Text = ""
    model: Slug
    version: Slug
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{0,64}$")] = ""
    window: _Text = ""


class Alert(_Payload):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: AlertLabels
    annotations: _Labels = Field(default={})
    starts_at: AwareDatetime = Field(alias="startsAt")
    ends_at: AwareDatetime = Field(alias="endsAt")
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class Notification(_Payload):
    """The body that Alertmanager posts."""

    version: Literal["4"]
    group_key: Annotated[str, Field(alias="groupKey", min_length=1, max_length=8192)]
    truncated_alerts: Annotated[int, Field(alias="truncatedAlerts", ge=0, le=1_000_000)] = 0
    status: Literal["firing", "resolved"]
    group_labels: _Labels = Field(alias="groupLabels")
    alerts: Annotated[tuple[Alert, ...], Field(min_length=1, max_length=MAX_ALERTS)]

    @classmethod
    def parse(cls, body: bytes) -> Notification:
        """Return the notification in `body`.

        Raises AlertsRefused with the reason, or AlertsTooLarge.
        """
        try:
            return cls.model_validate(from_json(body, allow_inf_nan=False))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "too_long" and first["loc"] == ("alerts",):
                raise AlertsTooLarge(
                    f"At most {MAX_ALERTS} alerts are accepted: set max_alerts in Alertmanager."
                ) from None
            where, wrong = ".".join(map(str, first["loc"])) or "the body", first["msg"]
        except ValueError as error:  # not JSON, or not UTF-8
            where, wrong = "the body", str(error)
        raise AlertsRefused(
            f"Not an Alertmanager notification, version 4: {_short(where)}: {_short(wrong)}."
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a request: one bundle, under one job.

    An alert of other rules may have no job and no digest (""): then any digest is meant.
    """

    job: str
    model: str
    version: str
    digest: str = ""

    @property
    def selector(self) -> str:
        """Return Prometheus's label matchers for the subject's series."""
        named = {name: getattr(self, name) for name in _SUBJECT}
        return ",".join(
            f"{name}={json.dumps(text, ensure_ascii=False)}" for name, text in named.items() if text
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """The alerts of one notification for one subject."""

    subject: Subject
    group: str  # hex digest of Alertmanager's group and the bundle
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    truncated: int

    @property
    def seed(self) -> str:
        """Return a seed that depends on the set of alerts, not on their order."""
        return "+".join(sorted({alert.fingerprint for alert in self.firing}))

    @property
    def window(self) -> str | None:
        """Return the longest window of the firing alerts, or None if they have none.

        The alarm of a monitor of the service has none: it looks at its last images.
        """
        known = {alert.labels.window for alert in self.firing} & WINDOWS.keys()
        return max(known, key=list(WINDOWS).index, default=None)

    @property
    def names_the_gate(self) -> bool:
        """Return whether the OOD rate's alert is among the firing ones."""
        return any(alert.labels.alertname == OOD_ALERT for alert in self.firing)


def drifts(notification: Notification) -> list[Drift]:
    """Group a notification's alerts by subject. Raises AlertsTooLarge."""
    by_subject: dict[Subject, list[Alert]] = defaultdict(list)
    for alert in notification.alerts:
        by_subject[_subject(alert)].append(alert)
    if len(by_subject) > MAX_SUBJECTS:
        raise AlertsTooLarge(
            f"At most {MAX_SUBJECTS} models are accepted in one notification, not "
            f"{len(by_subject)}: group by job, model, version and digest in Alertmanager. Nothing "
            "was filed."
        )
    return [_drift(subject, own, notification) for subject, own in by_subject.items()]


def _drift(subject: Subject, own: Sequence[Alert], notification: Notification) -> Drift:
    return Drift(
        subject=subject,
        group=_digest([*sorted(notification.group_labels.items()), subject.job, subject.digest]),
        firing=tuple(alert for alert in own if alert.status == "firing"),
        resolved=tuple(alert for alert in own if alert.status == "resolved"),
        truncated=notification.truncated_alerts,
    )


def _subject(alert: Alert) -> Subject:
    labels = alert.labels
    return Subject(labels.job, labels.model, labels.version, labels.digest)


def _short(text: str) -> str:
    """Return the sender's text, shortened and made printable for an answer and a log line."""
    cut = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def _digest(parts: Sequence[object]) -> str:
    # The digest is of the group's labels, not of its key: the key contains the route's text, so
    # editing the route would end every cool-down.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
