"""The errors of the retraining receiver."""

from __future__ import annotations

from tidegate.service.errors import TidegateError


class OptionRefused(TidegateError):
    """An option is invalid or the machine lacks something; the receiver does not start."""


class AlertsRefused(TidegateError):
    """The body is not a supported notification; sending it again does not help."""


class AlertsTooLarge(TidegateError):
    """The notification has too many bytes, alerts or models; nothing is filed."""


class AlertsTooSlow(TidegateError):
    """The body did not arrive in time."""


class TooManyFiled(TidegateError):
    """The hourly limit of requests is reached; nothing of this notification is filed."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotFiled(TidegateError):
    """The folder cannot be written now; Alertmanager repeats the notification."""


class NotPublished(TidegateError):
    """There is no task for the command, or its bundle cannot be put into the folder of models."""


class PrometheusUnavailable(TidegateError):
    """Prometheus does not answer, or the answer is not Prometheus's."""


class QueryRefused(TidegateError):
    """Prometheus rejects this query."""
