"""What a gate catches, in words: lines for the console, and a section of the model card."""

from __future__ import annotations

from collections.abc import Iterator

from tidegate.models.card.markdown import count, measured, percent, table
from tidegate.models.fitting.coverage_floor import WARN_BELOW, floor
from tidegate.service.bundle.evidence import Caught, Coverage

_EVERY_GROUP = "mean of these groups"


def coverage_lines(found: Coverage) -> list[str]:
    """Return a short table for the console, and a warning if the gate is weak."""
    lines = [
        "What the gate does with images that it should not accept:",
        f"  {'':34}{'images':>7}{'rejected':>10}{'rejected or reviewed':>22}",
    ]
    for name, caught in _rows(found):
        lines.append(
            f"  {name:34}{caught.caught.images:>7,}{caught.rejected.value:>10.0%}"
            f"{caught.caught.value:>22.0%}"
        )
    if found.synthetic.caught.value < WARN_BELOW:
        lines.append(
            f"WARNING: this gate is weak. It catches {found.synthetic.caught.value:.0%} of "
            f"synthetic OOD images, less than {WARN_BELOW:.0%}. The model card has the details."
        )
    return lines


def coverage_section(found: Coverage, alpha_review: float) -> str:
    """Return the section of the card, with the interval of every kind."""
    kinds = [
        (
            kind.name,
            kind.group,
            "yes" if kind.in_fit else "no",
            kind.caught.images,
            measured(kind.rejected),
            measured(kind.caught),
        )
        for kind in found.kinds
    ]
    groups = [
        (name, f"{c.caught.images:,}", measured(c.rejected), measured(c.caught))
        for name, c in _rows(found)
    ]
    return (
        "## What the gate catches\n\n"
        "Measured when the bundle was made, on images that were not used in the fit, with 95 % "
        "intervals.\n\n"
        + table(("images", "number", "rejected", "rejected or marked for review"), groups)
        + "\nExcept for the shuffled photographs, a group has only kinds that were not used in "
        "the fit; the second table has all kinds.\n"
        "Synthetic images are drawn by Tidegate. Real documents, screenshots and "
        "drawings are usually caught less often: the shares are upper bounds. Measure real ones "
        "with `--ood`.\n"
        + _left_out(found)
        + _verdict(found, alpha_review)
        + "\n"
        + table(
            (
                "kind",
                "group",
                "kind used in the fit",
                "number",
                "rejected",
                "rejected or marked for review",
            ),
            kinds,
        )
    )


def _rows(found: Coverage) -> Iterator[tuple[str, Caught]]:
    yield from found.groups.items()
    yield _EVERY_GROUP, found.synthetic
    if (left_out := found.left_out_classes) is not None:
        yield f"classes left out ({count(left_out.groups, 'group')})", left_out


def _left_out(found: Coverage) -> str:
    if found.left_out_classes is None:
        return (
            "Classes left out: not measured, as too few classes, calibration images or test images "
            "remain without a group.\n"
        )
    return (
        "Classes left out: one group of similar classes after the other is removed from the logits "
        "and the scores, the gate is calibrated without their images, and is given their test "
        "images. The network was trained with these classes, so images of other classes may be "
        "caught more or less often.\n"
    )


def _verdict(found: Coverage, alpha_review: float) -> str:
    share = found.synthetic.caught.value
    if found.accepted_although_weak:
        return (
            f"**The gate is below the floor of {percent(floor(alpha_review))}**, and was sealed by "
            "`--accept-weak-gate`: do not rely on it.\n"
        )
    if share < WARN_BELOW:
        return f"**This gate is weak**: it catches less than {WARN_BELOW:.0%} of them.\n"
    return ""
