"""An imported transformer reviews ordinary photographs at the declared rate.

The photographs are those of the demo, from twelve packages, in six classes by their paths.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import betabinom

from tidegate.models.benchmarks.gates import probe, transformer
from tidegate.models.commands import import_model
from tidegate.models.data.folders import cut
from tidegate.models.data.outputs import load_pixels
from tidegate.models.demo.photographs import Photograph, photographs
from tidegate.models.evaluation.expected_share import ExpectedShares
from tidegate.models.fitting.conformal import (
    PARTS,
    GateTarget,
    Scores,
    calibrate,
    combine,
    final_p_values,
)
from tidegate.models.graphs.session import quiet_session
from tidegate.models.package_files import DOWNLOADS
from tidegate.models.pipeline import Data, read_splits
from tidegate.service.bundle.store import Bundle, open_bundle

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLASSES = {
    "people": r"faces|profile|user",
    "animals": r"animals|fishes|clickgame",
    "plants": r"plants|food|erase",
    "buildings": r"monuments|town",
    "things": r"tools|renewable|household|hobbies|music|products|medical|vehicles|space|others",
    "scenes": "",
}
SHARES = {"train": 0.4, "calibrate": 0.8, "test": 1.0}  # cumulative
PARTITIONS, ALPHA = 200, 0.05


def class_of(item: Photograph) -> str:
    return next(name for name, words in CLASSES.items() if re.search(words, item.name))


def folders(found: list[Photograph], path: Path) -> Data:
    """Write the photographs, in the order of their digests, as three ImageFolders."""
    for place, item in enumerate(found):
        split = next(name for name, share in SHARES.items() if place < share * len(found))
        folder = path / split / class_of(item)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item.pixels).save(folder / f"{item.digest}.png")
    return Data(*(path / split for split in SHARES))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return folders(photographs(DOWNLOADS), tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def bundle(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    words = probe.write(transformer.encoder(), transformer.SPEC, data.train, folder)
    splits = [f"--{split}={getattr(data, split)}" for split in SHARES]
    named = ["--name=photographs", "--version=1", f"--out={folder}"]
    import_model.run(import_model.parser().parse_args([*words, *splits, *named]))
    return open_bundle(folder / "photographs" / "1")


def test_new_photographs_are_flagged_at_the_declared_rate(bundle: Bundle) -> None:
    gate, evaluation = bundle.manifest.gate, bundle.manifest.evaluation
    assert evaluation is not None
    assert not gate.own_threshold

    flagged = evaluation.false_rejection.value + evaluation.false_review.value

    k = int(ALPHA * (gate.fold_b + 1))
    low, high = betabinom(evaluation.images, k, gate.fold_b + 1 - k).interval(0.95)
    assert low <= round(flagged * evaluation.images) <= high


def test_over_partitions_photographs_are_flagged_at_the_declared_rate_on_average(
    bundle: Bundle, data: Data
) -> None:
    """The scores were chosen on the selection images; the other ones change places."""
    names = bundle.manifest.gate.scores
    splits = read_splits(data, bundle.labels, GateTarget())
    held_out = splits.calibrate.items[cut(len(splits.calibrate.items), PARTS)["selection"].stop :]
    session = quiet_session(bundle.model_path.read_bytes())
    rows = [
        session.run(
            ["scores", "logits"],
            {"pixels": load_pixels(item.path, bundle.manifest.preprocess)[None]},
        )
        for item in (*held_out, *splits.test.items)
    ]
    values, logits = (np.concatenate(column) for column in zip(*rows, strict=True))
    pool = Scores(dict(zip(names, values.astype(np.float64).T, strict=True)), logits.argmax(axis=1))
    bounds = (len(held_out) // 2, len(held_out))
    rng = np.random.default_rng(0)
    shares, inside = [], 0
    for _ in range(PARTITIONS):
        a, b, new = (pool.part(rows) for rows in np.split(rng.permutation(len(pool)), bounds))
        gate = calibrate(a, b, len(CLASSES), GateTarget(), bundle.manifest.gate.combination)
        p = final_p_values(gate, combine(gate.folds_a, gate.combination, new.values), new.predicted)
        expected = ExpectedShares.of(gate, new.predicted).flagged
        shares.append(float((p <= ALPHA).mean()))
        inside += expected.low <= shares[-1] <= expected.high

    assert np.mean(shares) == pytest.approx(ALPHA, abs=0.006)
    assert inside >= 0.93 * PARTITIONS
