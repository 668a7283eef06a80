"""The canary and the shadow of one model while it serves: who answers, and what is compared."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate.service.served import Served


@dataclass(slots=True, eq=False)
class Rollout:
    """A stable version with a canary, a shadow or both."""

    stable: Served
    canary: Served | None
    canary_share: float
    shadow: Served | None
    shadow_share: float

    def takes(self, key: str) -> bool:
        """Return whether the canary answers requests with this key."""
        return False
