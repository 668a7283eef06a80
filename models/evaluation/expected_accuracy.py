"""Compare the accuracy on the test split with the one that training reported."""

from __future__ import annotations

from tidegate.models.errors import BuildRefused
from tidegate.service.bundle.evidence import Share


def check_expected(found: Share, expected: float | None) -> None:
    """Raise BuildRefused if the accuracy is below the expected one, beyond its 95 % interval."""
    if expected is None or found.high >= expected:
        return
    raise BuildRefused(
        f"The accuracy on the {found.images} test images is {found.value:.1%} "
        f"({found.low:.1%} to {found.high:.1%}), but --expect-accuracy is {expected:.1%}. Usual "
        "reasons: another input size, crop or normalisation than in training, another entry of the "
        "checkpoint, or labels in another order."
    )
