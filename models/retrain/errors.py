"""What the retraining receiver refuses, and what each refusal asks of whoever caused it."""

from __future__ import annotations

from tidegate.service.errors import TidegateError


class OptionRefused(TidegateError):
    """An option or the machine is at fault; the receiver does not start."""


class AlertsRefused(TidegateError):
    """The body is not a notification that this receiver can act on; sending it again is no help."""


class AlertsTooLarge(TidegateError):
    """More bytes, alerts or models than a notification may have; nothing of it is filed."""


class AlertsTooSlow(TidegateError):
    """The body did not arrive in time."""


class TooManyFiled(TidegateError):
    """As many requests as an hour allows have been filed; nothing of this notification is."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotFiled(TidegateError):
    """The folder cannot be written now; Alertmanager sends it again."""


class PrometheusUnavailable(TidegateError):
    """No answer, or not one of Prometheus's."""


class QueryRefused(TidegateError):
    """Prometheus answers, but not this query."""
