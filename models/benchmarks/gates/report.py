"""The comparison as plain values, for a file, and as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict

from tidegate.models.benchmarks.gates.measure import CAUGHT, Row
from tidegate.models.fitting.conformal import Combination
from tidegate.service.bundle.evidence import Share


class Separation(TypedDict):
    """How well some scores separate; AUROCs."""

    scores: list[str]
    mean: float
    synthetic: float
    left_out: float | None  # if classes could be left out


class Figures(TypedDict):
    """The measurements of one bundle; shares are from 0 to 1, and ranges of 95 %."""

    bundle: str
    accuracy: list[float] | None  # value, low, high
    flagged: list[float] | None  # the same, of test images with p ≤ alpha_review
    expected: list[float] | None  # low and high of `flagged`
    chosen: Separation
    single: Separation  # of the best score alone
    caught: dict[str, float]  # kind of synthetic image → rejected or marked for review
    real: dict[str, list[float]]  # set of real images → with the former scores, with the chosen


def figures(row: Row) -> Figures:
    """Return the measurements as they are written."""
    return Figures(
        bundle=row.bundle,
        accuracy=_share(row.accuracy),
        flagged=_share(row.flagged),
        expected=None if row.expected is None else [row.expected.low, row.expected.high],
        chosen=_separation(row, row.combination),
        single=_separation(row, row.best_single),
        caught=dict(row.caught),
        real={} if row.real is None else {name: list(pair) for name, pair in row.real.items()},
    )


def tables(measured: Iterable[Figures]) -> str:
    """Return three Markdown tables: the scores, what they catch, and the same of real images."""
    measured = list(measured)
    lines = [
        "| bundle | accuracy | p ≤ 0.05 on test images | expected of them | scores that decide | "
        "AUROC | best single score | its AUROC | difference |",
        "|" + " --- |" * 9,
    ]
    for one in measured:
        chosen, single = one["chosen"], one["single"]
        lines.append(
            f"| {one['bundle']} | {_percent(one['accuracy'])} | {_percent(one['flagged'])} | "
            f"{_range(one['expected'])} | {' + '.join(chosen['scores'])} | {_parts(chosen)} | "
            f"{single['scores'][0]} | {_parts(single)} | {chosen['mean'] - single['mean']:+.4f} |"
        )
    lines += _header(CAUGHT)
    for one in measured:
        shares = (f"{100 * one['caught'].get(name, math.nan):.0f} %" for name in CAUGHT)
        lines.append(f"| {one['bundle']} | {' | '.join(shares)} |")
    real = [one for one in measured if one["real"]]
    lines += _header(real[0]["real"]) if real else []
    for one in real:
        pairs = list(one["real"].values())
        lines.append(_changes(one["bundle"], pairs))
        passes = [[1 - former, 1 - now] for former, now in pairs]
        lines.append(_changes(f"{one['bundle']}: what passes", passes))
    return "\n".join(lines)


def _changes(name: str, pairs: Iterable[Sequence[float]]) -> str:
    """Return a row with a share before and after for each column."""
    cells = (f"{100 * before:.1f} → {100 * after:.1f} %" for before, after in pairs)
    return f"| {name} | {' | '.join(cells)} |"


def _separation(row: Row, scores: Combination) -> Separation:
    found = row.separation
    return Separation(
        scores=list(scores),
        mean=found.criterion[scores],
        synthetic=found.synthetic[scores],
        left_out=found.removed_classes.get(scores),
    )


def _share(share: Share | None) -> list[float] | None:
    return None if share is None else [share.value, share.low, share.high]


def _header(columns: Iterable[str]) -> list[str]:
    names = ["bundle", *columns]
    return ["", f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]


def _parts(found: Separation) -> str:
    """Return the criterion, and in parentheses its two parts."""
    left_out = "–" if found["left_out"] is None else f"{found['left_out']:.3f}"
    return f"{found['mean']:.4f} ({found['synthetic']:.3f}, {left_out})"


def _percent(share: list[float] | None) -> str:
    if share is None:
        return "–"
    value, low, high = share
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _range(limits: list[float] | None) -> str:
    return "–" if limits is None else f"{100 * limits[0]:.1f} to {100 * limits[1]:.1f} %"
