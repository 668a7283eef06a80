"""The demo's row. Its photographs have no true class, so the predicted one takes its place."""

from __future__ import annotations

from pathlib import Path

from tidegate.models.benchmarks.gates.measure import Row, caught
from tidegate.models.data.outputs import run_pixels
from tidegate.models.demo import calibration_file
from tidegate.models.demo.model import gate_head, last_layer, sealed_graph
from tidegate.models.demo.photographs import Photograph, photographs, split
from tidegate.models.demo.source import find_wheel
from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.fitting.candidates import with_candidates
from tidegate.models.fitting.coverage import LabelledOutputs
from tidegate.models.fitting.separation import separation, unseen_synthetic
from tidegate.models.progress import follow
from tidegate.models.sealing.score_heads import Linear
from tidegate.service.bundle.evidence import Coverage


def row(downloads: Path) -> Row:
    """Measure the committed gate on the photographs of fold B, on which no score was fitted.

    Missing packages of photographs are fetched into `downloads`.
    """
    weights, calibration = find_wheel(None).weights(), calibration_file.load()
    fit = calibration.report["fit"]
    head = gate_head(weights, calibration.centre, fit["shrinkage"], fit["rank"])
    detector = Linear(calibration.drawn)
    every = with_candidates(head, fit["ceiling"], last_layer(weights), detector)
    graph = sealed_graph(weights, head)

    def predicted(items: list[Photograph]) -> LabelledOutputs:
        outputs = run_pixels(graph, [item.pixels for item in follow(items, "Running the demo")])
        return LabelledOutputs(outputs, outputs.predicted)

    parts = split(photographs(downloads))
    unseen = parts["fold_b"]
    return Row(
        bundle="demo",
        accuracy=None,
        flagged=None,
        expected=None,
        combination=calibration.gate.combination,
        separation=separation(
            every,
            calibration.gate.combination,
            predicted(parts["fold_a"]),
            predicted(unseen),
            unseen_synthetic(graph, PREPROCESS, [item.pixels for item in unseen]),
        ),
        caught=caught(Coverage.model_validate(calibration.report["coverage"])),
    )
