"""How much a gate must catch to be sealed, and to be sealed without a warning."""

from __future__ import annotations

from tidegate.models.errors import BuildRefused
from tidegate.service.bundle.evidence import Coverage

# A gate that ignores the image catches alpha_review of everything, so it must catch more than that.
_ABOVE_CHANCE = 0.05
WARN_BELOW = 0.5  # of synthetic OOD images rejected or marked for review: most of them pass


def floor(alpha_review: float) -> float:
    """Return the share of synthetic OOD images that a gate must reject or mark for review."""
    return alpha_review + _ABOVE_CHANCE


def check_coverage(found: Coverage, alpha_review: float, *, accept_weak: bool) -> Coverage:
    """Return what is sealed. Raises BuildRefused for a gate below the floor, unless accepted."""
    share, least = found.synthetic.caught.value, floor(alpha_review)
    if share >= least:
        return found
    if not accept_weak:
        raise BuildRefused(
            f"The gate catches {share:.1%} of synthetic OOD images such as noise, documents and "
            f"drawings; the floor is {least:.1%}, as a gate that ignores the image catches "
            f"{alpha_review:.1%}. Check the checkpoint and the preprocessing, or try another "
            "--distance. With --accept-weak-gate the bundle is sealed nevertheless."
        )
    return found.model_copy(update={"accepted_although_weak": True})
