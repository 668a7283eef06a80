"""Which requests go to a canary or a shadow: by hash, so that a key always gets the same answer.

Raising a share keeps the keys that are already in it.
"""

from __future__ import annotations

import hashlib
from typing import Literal

_RANGE = 2.0**64


def chooses_canary(key: str, share: float, salt: str) -> bool:
    """Return whether requests with this key go to the canary.

    With one salt per rollout (a model and the canary's version) rollouts do not choose the same
    clients.
    """
    return _place("canary", key, salt) < share


def chooses_shadow(key: str, share: float, salt: str) -> bool:
    """Return whether a request with this key is repeated by the shadow; independent of canaries."""
    return _place("shadow", key, salt) < share


def _place(purpose: Literal["canary", "shadow"], key: str, salt: str) -> float:
    """Return a place in [0, 1) that is uniform over keys."""
    data = f"{salt}\0{key}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8, person=purpose.encode()).digest()
    return int.from_bytes(digest, "big") / _RANGE
