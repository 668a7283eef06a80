"""Whether the service should receive traffic: the condition of every readiness probe."""

from __future__ import annotations

from tidegate.service.errors import Draining, NotReady
from tidegate.service.lifecycle import Phase, Service


def check_ready(service: Service) -> None:
    """Raise Draining or NotReady, with the reason, unless the service should receive traffic."""
    if service.phase is Phase.DRAINING:
        raise Draining("The service is shutting down.")
    if service.phase is not Phase.READY:
        raise NotReady(service.failure or "The model is still warming up.")
    if reason := service.unready_reason:
        raise NotReady(reason)


def is_ready(service: Service) -> bool:
    """Return whether the service should receive traffic."""
    return service.phase is Phase.READY and not service.unready_reason
