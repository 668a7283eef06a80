"""Compare an engine's outputs and decisions with those of the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tidegate.service.engines.base import Engine
from tidegate.service.ood.gates import Gate
from tidegate.service.types import OUTPUT_NAMES, Outputs, Pixels

BAND = 1e-3  # around an alpha, in which rounding may change a decision


def answers(engine: Engine, pixels: Sequence[Pixels]) -> Outputs:
    """Return an engine's outputs for all images, in its largest batches."""
    most = engine.max_batch_size
    parts = [engine.run(0, pixels[at : at + most]) for at in range(0, len(pixels), most)]
    return Outputs(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in OUTPUT_NAMES)
    )


def differences(got: Outputs, expected: Outputs, gate: Gate) -> dict[str, float | int]:
    """Return the largest differences, relative to the largest value, and changed decisions."""
    figures: dict[str, float | int] = {"images": len(expected.scores)}
    pairs = {name: (getattr(got, name), getattr(expected, name)) for name in ("logits", "features")}
    columns = zip(gate.folds_a, got.scores.T, expected.scores.T, strict=True)
    pairs |= {name: (mine, theirs) for name, mine, theirs in columns}
    for name, (mine, theirs) in pairs.items():
        difference = np.abs(np.subtract(mine, theirs, dtype=np.float64))
        figures[name] = float(np.max(difference) / np.max(np.abs(theirs)))
    top = [np.argmax(outputs.logits, axis=1) for outputs in (got, expected)]
    figures["other_class"] = int(np.sum(top[0] != top[1]))
    flips, outside = 0, 0
    for row in range(len(expected.scores)):
        predictions, reference = (
            gate.judge(o.scores[row].tolist(), int(np.argmax(o.logits[row])))
            for o in (got, expected)
        )
        if predictions.decision != reference.decision:
            flips += 1
            near = min(abs(reference.p_value - a) for a in (gate.alpha_reject, gate.alpha_review))
            outside += near > BAND
    return {**figures, "flips": flips, "flips_outside_the_band": outside}
