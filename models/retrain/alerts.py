"""Alertmanager's webhook payload, version 4, and which models it is about. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from tidegate.models.retrain.errors import AlertsRefused, AlertsTooLarge
from tidegate.service.bundle.manifest import Slug

OOD_ALERT = "TidegateOodRateHigh"
MAX_ALERTS = 200  # of a notification: `max_alerts` in alertmanager.yml
MAX_SUBJECTS = 20  # a notification of the committed routes is about one
_MAX_TOLD = 200  # characters of a refusal that the sender chose
_SUBJECT = ("job", "model", "version")
_Text = Annotated[str, Field(max_length=4096)]
_Labels = Annotated[dict[_Text, _Text], Field(max_length=64)]


class _Payload(BaseModel):
    """Fields that a newer Alertmanager adds are no reason to lose an alert."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class AlertLabels(_Payload):
    """The labels that say what an alert is about; the others are kept beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, _Text]

    alertname: Annotated[str, Field(min_length=1, max_length=200)]
    job: _Text = ""
    model: Slug
    version: Slug


class Alert(_Payload):
    """One alert of a notification."""

    status: Literal["firing", "resolved"]
    labels: AlertLabels
    annotations: _Labels = Field(default={})
    starts_at: AwareDatetime = Field(alias="startsAt")
    ends_at: AwareDatetime = Field(alias="endsAt")
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class Notification(_Payload):
    """What Alertmanager posts."""

    version: Literal["4"]
    group_key: Annotated[str, Field(alias="groupKey", min_length=1, max_length=8192)]
    truncated_alerts: Annotated[int, Field(alias="truncatedAlerts", ge=0, le=1_000_000)] = 0
    status: Literal["firing", "resolved"]
    group_labels: _Labels = Field(alias="groupLabels")
    alerts: Annotated[tuple[Alert, ...], Field(min_length=1, max_length=MAX_ALERTS)]

    @classmethod
    def parse(cls, body: bytes) -> Notification:
        """Return the notification that a body is.

        Raises AlertsRefused, saying what is wrong, or AlertsTooLarge.
        """
        try:
            return cls.model_validate(from_json(body, allow_inf_nan=False))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "too_long" and first["loc"] == ("alerts",):
                raise AlertsTooLarge(
                    f"At most {MAX_ALERTS} alerts: set max_alerts in Alertmanager."
                ) from None
            where, wrong = ".".join(map(str, first["loc"])) or "the body", first["msg"]
        except ValueError as error:  # no JSON, or not in UTF-8
            where, wrong = "the body", str(error)
        raise AlertsRefused(
            f"Not a notification of Alertmanager, version 4: {_short(where)}: {_short(wrong)}."
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """What a request is about: one model, one version, under one job ("" where there is none)."""

    job: str
    model: str
    version: str

    @property
    def selector(self) -> str:
        """Prometheus's label matchers for its series."""
        named = {name: getattr(self, name) for name in _SUBJECT}
        return ",".join(
            f"{name}={json.dumps(text, ensure_ascii=False)}" for name, text in named.items() if text
        )


@dataclass(frozen=True, slots=True)
class Drift:
    """The alerts of one notification about one subject."""

    subject: Subject
    group: str  # what Alertmanager groups together is one matter; hex
    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    truncated: int

    @property
    def seed(self) -> str:
        """The same for the same alerts, whatever order they come in."""
        return "+".join(sorted({alert.fingerprint for alert in self.firing}))

    @property
    def names_the_gate(self) -> bool:
        """Whether the OOD rate's own alert is among those that fire."""
        return any(alert.labels.alertname == OOD_ALERT for alert in self.firing)


def drifts(notification: Notification) -> list[Drift]:
    """Sort a notification's alerts by what they are about. Raises AlertsTooLarge."""
    by_subject: dict[Subject, list[Alert]] = defaultdict(list)
    for alert in notification.alerts:
        by_subject[_subject(alert)].append(alert)
    if len(by_subject) > MAX_SUBJECTS:
        raise AlertsTooLarge(
            f"At most {MAX_SUBJECTS} models in one notification, not {len(by_subject)}: group by "
            "job, model and version in Alertmanager. Nothing was filed."
        )
    return [_drift(subject, own, notification) for subject, own in by_subject.items()]


def _drift(subject: Subject, own: Sequence[Alert], notification: Notification) -> Drift:
    return Drift(
        subject=subject,
        group=_digest([*sorted(notification.group_labels.items()), subject.job]),
        firing=tuple(alert for alert in own if alert.status == "firing"),
        resolved=tuple(alert for alert in own if alert.status == "resolved"),
        truncated=notification.truncated_alerts,
    )


def _subject(alert: Alert) -> Subject:
    return Subject(alert.labels.job, alert.labels.model, alert.labels.version)


def _short(text: str) -> str:
    """Return text that a sender chose, fit for an answer and a line of a log."""
    cut = text if len(text) <= _MAX_TOLD else text[:_MAX_TOLD] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def _digest(parts: Sequence[object]) -> str:
    # Of the group's labels and not of its key: that holds the route's text, and editing the route
    # would end every cool-down.
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
