"""The gate's guarantee on real features: handwritten digits that the network never saw."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.stats import betabinom

from tests.server import PATIENCE_S, running
from tests.unit.models.fitting.test_conformal import of_one_class, uniform_at
from tidegate.models.data.folders import labelled
from tidegate.models.data.outputs import extract
from tidegate.models.digits.images import LABELS, data
from tidegate.models.digits.model import load
from tidegate.models.fitting.conformal import GateTarget, Scores, calibrate, combine, final_p_values
from tidegate.models.fitting.fit import score_rows
from tidegate.models.fitting.mahalanobis import fit_distance
from tidegate.models.sealing.seal import without_gate
from tidegate.service.bundle.store import open_bundle
from tidegate.service.cli import main

pytestmark = [pytest.mark.torch, pytest.mark.slow]
PARTITIONS, FOLD, ALPHA = 12, 1500, 0.05


def chosen(scores: Scores, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Scores:
    return of_one_class(scores.part(rows))


@pytest.mark.timeout(900)
def test_held_out_digits_are_rejected_at_the_declared_rate(tmp_path: Path) -> None:
    """4,999 held-out digits, cut 12 times at random: 23,988 new rows in all."""
    folders = data()
    imported = load(folders)
    graph = without_gate(imported.backbone, imported.spec)
    splits = {name: getattr(folders, name) for name in ("train", "calibrate", "test")}
    found = {
        name: extract(graph, labelled(name, folder, LABELS), imported.spec, tmp_path)
        for name, folder in splits.items()
    }
    train = found["train"]
    head = fit_distance(train.features, train.split.class_ids, LABELS).head()
    both = [score_rows(head, found[name]) for name in ("calibrate", "test")]
    held_out = Scores(
        {name: np.concatenate([s.values[name] for s in both]) for name in head.names},
        np.concatenate([s.predicted for s in both]),
    )
    rng = np.random.default_rng(0)
    kept = uniform = new_rows = 0
    for _ in range(PARTITIONS):
        order = rng.permutation(len(held_out))
        parts = [chosen(held_out, rows) for rows in np.split(order, [FOLD, 2 * FOLD])]
        gate = calibrate(parts[0], parts[1], len(LABELS), GateTarget(ALPHA, 0.1), head.names)
        combined = combine(gate.folds_a, gate.combination, parts[2].values)
        p = final_p_values(gate, combined, parts[2].predicted)
        k = int(ALPHA * (FOLD + 1))
        low, high = betabinom(len(p), k, FOLD + 1 - k).interval(0.99)
        kept += bool(low <= (p <= ALPHA).sum() <= high)
        uniform += uniform_at(p, FOLD)
        new_rows += len(p)

    assert new_rows >= 20_000
    assert kept >= PARTITIONS - 1  # one in a hundred may be outside
    assert uniform >= PARTITIONS - 1


@pytest.mark.timeout(900)
def test_the_service_names_digits_and_refuses_noise(tmp_path: Path) -> None:
    assert main(["digits", "--out", str(tmp_path)]) == 0
    folders = data()
    noise = sorted(folders.ood["noise"].iterdir())[:20]
    digits = [next((folders.test / label).iterdir()) for label in LABELS]

    with running(tmp_path / "digits/1") as server, httpx.Client(timeout=PATIENCE_S) as client:
        named = [client.post(f"{server.url}/classify", content=d.read_bytes()) for d in digits]
        refused = [client.post(f"{server.url}/classify", content=n.read_bytes()) for n in noise]

    right = [
        answer.status_code == 200 and answer.json()["predictions"][0]["label"] == label
        for answer, label in zip(named, LABELS, strict=True)
    ]
    assert sum(right) >= 9
    assert {answer.json()["code"] for answer in refused} == {"out-of-distribution"}
    evaluation = open_bundle(tmp_path / "digits/1").manifest.evaluation
    assert evaluation is not None
    separation = {report.name: report.separation for report in evaluation.ood}
    assert separation["noise"]["energy"].auroc < 0.1
    assert min(of_set["combined"].auroc for of_set in separation.values()) > 0.98
    assert evaluation.calibrated.ece <= evaluation.calibrated.ece_noise_floor
