"""The report of a retraining: both versions on the same images, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidegate.models.card.markdown import measured, number, percent, table
from tidegate.models.evaluation.paired import CLEARLY
from tidegate.models.retrain.comparison import Answers, Compared
from tidegate.service.bundle.store import Bundle
from tidegate.service.types import Decision

_DECISIONS: tuple[Decision, ...] = ("accept", "review", "reject")


def report(
    request: str,
    old: Bundle,
    new: Bundle,
    images: Sequence[str],
    compared: Mapping[str, Compared],
    cards: tuple[str, str],
) -> str:
    """Return the report; `images` are sentences on them, `cards` the files of both model cards."""
    name, before, after = new.manifest.name, old.manifest.version, new.manifest.version
    parts = [
        f"# {name} {after}, retrained from {before}\n",
        f"Request: {request}. Nothing was deployed.\n",
        f"Model cards: [{before}]({cards[0]}), [{after}]({cards[1]}).\n",
        "## Images\n\n" + "".join(f"- {line}\n" for line in images),
    ]
    for what, both in compared.items():
        header = ("", f"version {before}", f"version {after}")
        parts.append(
            f"## {what[0].upper()}{what[1:]}\n\n"
            + table(header, _rows(both.old, both.new))
            + f"\n{in_words(both)}\n"
        )
    return "\n".join(parts)


def in_words(both: Compared) -> str:
    """Return a sentence on which version is better."""
    counts = (
        f"The new version corrects {both.corrected} images and breaks {both.broken} "
        f"(McNemar's exact test: p = {both.p_value:.2g})"
    )
    if both.is_clearly_worse:
        return f"{counts}: it is worse on these images."
    if both.corrected > both.broken and both.p_value < CLEARLY:
        return f"{counts}: it is better on these images."
    return f"{counts}: a difference is not shown."


def _rows(old: Answers, new: Answers) -> list[tuple[str, str, str]]:
    return [
        ("images", str(len(old.right)), str(len(new.right))),
        ("accuracy", measured(old.accuracy), measured(new.accuracy)),
        ("balanced accuracy", percent(old.balanced_accuracy), percent(new.balanced_accuracy)),
        ("NLL", number(old.nll), number(new.nll)),
        ("ECE", percent(old.ece), percent(new.ece)),
        *((name, percent(old.share(name)), percent(new.share(name))) for name in _DECISIONS),
    ]
