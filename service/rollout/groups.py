"""Groups of consecutive images, in which chance decided which version got which image.

If a group has c images of the canary among `GROUP`, each choice of c images was equally likely,
whatever the traffic does: daily rhythms, incidents that affect both versions, and shares that
change between groups. So the next image of a group goes to the canary with a known probability q:
the canary's images that remain, divided by all that remain. The difference that an image gives,
(y − b)/q for the canary and −(y − b)/(1 − q) for the stable version, is on average what the
canary's answer would have been minus the stable version's (inverse probability weighting). A
baseline b that was known before only makes it vary less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]

GROUP = 32  # images


class Groups:
    """Forms groups of images in the order in which they are added."""

    def __init__(self, columns: int) -> None:
        self._canary = np.zeros(0, np.bool_)
        self._values = np.zeros((0, columns))

    def add(self, canary: Bool, values: Float64) -> tuple[Bool, Float64]:
        """Add images, [n] and [n, columns].

        Return the groups that are complete and have images of both versions, [groups, GROUP] and
        [groups, GROUP, columns].
        """
        canary = np.concatenate([self._canary, canary])
        values = np.concatenate([self._values, values])
        used = len(canary) // GROUP * GROUP
        self._canary, self._values = canary[used:], values[used:]
        groups = canary[:used].reshape(-1, GROUP)
        mixed = groups.any(axis=1) & ~groups.all(axis=1)
        return groups[mixed], values[:used].reshape(-1, GROUP, values.shape[1])[mixed]


def weights(canary: Bool) -> Float64:
    """Return 1/q for the canary's and −1/(1 − q) for the other images, [groups, GROUP].

    It is 0 where the version was certain, because no other choice remained.
    """
    remaining = np.arange(GROUP, 0, -1)
    canaries = np.cumsum(canary[:, ::-1], axis=1)[:, ::-1]
    others = remaining - canaries
    certain = (canaries == 0) | (others == 0)
    found = np.where(
        canary, remaining / np.maximum(canaries, 1), -remaining / np.maximum(others, 1)
    )
    return np.where(certain, 0.0, found)


def ranks(canary: Bool, values: Float64, handicap: float) -> Float64:
    """Return each image's rank in its group, from 0 to 1, [groups, GROUP]; ties get the mean.

    `values` are [groups, GROUP]; the canary's are lowered by the handicap before.
    """
    values = values - handicap * canary
    below = (values[:, :, None] > values[:, None, :]).sum(axis=2)
    above = (values[:, :, None] < values[:, None, :]).sum(axis=2)
    return np.asarray(0.5 + (below - above) / (2 * (GROUP - 1)))
