"""One row of the table: false rejections, AUROC of every score, and what the gate catches."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.build_request import Data, read_splits
from tidegate.models.data.outputs import extract, load_pixels
from tidegate.models.evaluation.expected_share import ExpectedShares, Range
from tidegate.models.evaluation.intervals import beta_share
from tidegate.models.fitting.choice import Choice
from tidegate.models.fitting.conformal import Combination, combine, final_p_values
from tidegate.models.fitting.coverage import PER_KIND, LabelledOutputs
from tidegate.models.fitting.fit import FitOptions, fit, score_rows
from tidegate.models.fitting.separation import separation, unseen_synthetic
from tidegate.models.sealing.unseal import unseal
from tidegate.service.bundle.evidence import Coverage, Share
from tidegate.service.bundle.store import open_bundle

CAUGHT = ("dialogs", "pages", "tables", "pie charts", "scatter plots", "icons", "emoji")


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one bundle's gate, on images that took no part in its fit."""

    bundle: str
    accuracy: Share | None
    flagged: Share | None  # share of test images with p ≤ alpha_review
    expected: Range | None  # of that share, if the test images are like those of fold B
    combination: Combination
    separation: Choice
    caught: Mapping[str, float]  # kind of synthetic image → rejected or marked for review

    @property
    def best_single(self) -> Combination:
        """Return the single score with the best criterion."""
        criterion = self.separation.criterion
        return max((c for c in criterion if len(c) == 1), key=lambda c: criterion[c])


def measure(path: Path, data: Data) -> Row:
    """Fit the gate of the bundle at `path` again on its own images, and measure every score."""
    bundle = open_bundle(path)
    manifest, spec, target = bundle.manifest, bundle.manifest.preprocess, FitOptions().target
    splits = read_splits(data, bundle.labels, target)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        backbone = unseal(bundle.model_path.read_bytes())
        fitted = fit(backbone, spec, splits, bundle.labels, FitOptions(), scratch)
        test = extract(fitted.graph, splits.test, spec, scratch)
        every = max(1, len(test) // PER_KIND)
        photographs = [load_pixels(item.path, spec) for item in test.split.items[::every]]
        found = separation(
            fitted.every,
            fitted.gate.combination,
            LabelledOutputs(fitted.folds[0].outputs, fitted.folds[0].split.class_ids),
            LabelledOutputs(test.outputs, test.split.class_ids),
            unseen_synthetic(fitted.graph, spec, photographs),
        )
        scores, gate = score_rows(fitted.head, test), fitted.gate
        combined = combine(gate.folds_a, gate.combination, scores.values)
        p = final_p_values(gate, combined, scores.predicted)
    return Row(
        bundle=manifest.name,
        accuracy=None if manifest.evaluation is None else manifest.evaluation.accuracy,
        flagged=beta_share(int((p <= gate.alpha_review).sum()), len(p)),
        expected=ExpectedShares.of(gate, scores.predicted).flagged,
        combination=gate.combination,
        separation=found,
        caught={} if manifest.coverage is None else caught(manifest.coverage),
    )


def caught(coverage: Coverage) -> dict[str, float]:
    """Return the share of each kind of CAUGHT that is rejected or marked for review."""
    shares = {kind.name: kind.caught.value for kind in coverage.kinds}
    return {name: shares[name] for name in CAUGHT}


def tables(rows: Sequence[Row]) -> str:
    """Return the rows as two Markdown tables."""
    lines = [
        "| bundle | accuracy | p ≤ 0.05 on test images | expected of them | scores that decide | "
        "AUROC | best single score | its AUROC | difference |",
        "|" + " --- |" * 9,
    ]
    for row in rows:
        criterion, single = row.separation.criterion, row.best_single
        difference = criterion[row.combination] - criterion[single]
        lines.append(
            f"| {row.bundle} | {_share(row.accuracy)} | {_share(row.flagged)} | "
            f"{_range(row.expected)} | {' + '.join(row.combination)} | "
            f"{_parts(row, row.combination)} | {single[0]} | {_parts(row, single)} | "
            f"{difference:+.4f} |"
        )
    lines += ["", f"| bundle | {' | '.join(CAUGHT)} |", "|" + " --- |" * (1 + len(CAUGHT))]
    for row in rows:
        shares = " | ".join(f"{100 * row.caught.get(name, math.nan):.0f} %" for name in CAUGHT)
        lines.append(f"| {row.bundle} | {shares} |")
    return "\n".join(lines)


def _parts(row: Row, scores: Combination) -> str:
    """Return the criterion, and in parentheses its two parts."""
    found = row.separation
    left_out = f"{found.removed_classes[scores]:.3f}" if found.removed_classes else "–"
    return f"{found.criterion[scores]:.4f} ({found.synthetic[scores]:.3f}, {left_out})"


def _share(share: Share | None) -> str:
    if share is None:
        return "–"
    return f"{100 * share.value:.1f} % ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _range(found: Range | None) -> str:
    return "–" if found is None else f"{100 * found.low:.1f} to {100 * found.high:.1f} %"
