"""The demo's row. Its photographs have no true class, so the predicted one takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tidegate.models.benchmarks.gates.measure import Row, caught, on_real_images
from tidegate.models.data.outputs import load_pixels, run_pixels
from tidegate.models.demo import calibration_file
from tidegate.models.demo.model import gate_head, last_layer, network, sealed_graph
from tidegate.models.demo.photographs import Photograph, photographs, split
from tidegate.models.demo.source import find_wheel
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.fitting.candidates import with_candidates
from tidegate.models.fitting.coverage import LabelledOutputs
from tidegate.models.fitting.fit import score_rows
from tidegate.models.fitting.separation import separation, unseen_synthetic
from tidegate.models.progress import follow
from tidegate.models.sealing.score_heads import Linear
from tidegate.service.bundle.evidence import Coverage


def row(downloads: Path, drawn: Mapping[str, list[Path]]) -> Row:
    """Measure the committed gate on the photographs of fold B, on which no score was fitted.

    Missing packages of photographs are fetched into `downloads`. `drawn` are sets of real images
    that are no photographs; for them, half of fold B are images that the gate does not know.
    """
    weights, calibration = find_wheel(None).weights(), calibration_file.load()
    fit = calibration.report["fit"]
    head = gate_head(weights, calibration.centre, fit["shrinkage"], fit["rank"])
    detector = Linear(calibration.drawn)
    every = with_candidates(head, fit["ceiling"], last_layer(weights), detector)
    graph = sealed_graph(network(weights), head)

    def predicted(items: list[Photograph]) -> LabelledOutputs:
        outputs = run_pixels(graph, [item.pixels for item in follow(items, "Running the demo")])
        return LabelledOutputs(outputs, outputs.predicted)

    parts = split(photographs(downloads))
    unseen = parts["fold_b"]
    known, new = predicted(parts["fold_a"]), predicted(unseen)
    half = np.arange(len(unseen)) % 2 == 0
    usual = (known.outputs, new.outputs.part(half), new.outputs.part(~half))
    other = {
        name: run_pixels(graph, [load_pixels(path, PREPROCESS) for path in paths])
        for name, paths in drawn.items()
    }
    return Row(
        bundle="demo",
        accuracy=None,
        flagged=None,
        expected=None,
        combination=calibration.gate.combination,
        separation=separation(
            every,
            calibration.gate.combination,
            known,
            new,
            unseen_synthetic(graph, PREPROCESS, [item.pixels for item in unseen]),
        ),
        caught=caught(Coverage.model_validate(calibration.report["coverage"])),
        real=on_real_images(
            [score_rows(every, outputs) for outputs in usual],
            {name: score_rows(every, outputs) for name, outputs in other.items()},
            calibration.gate.combination,
            every.means.shape[0],
        ),
    )
