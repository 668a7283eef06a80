"""An imported convnet reviews ordinary photographs at the declared rate.

The photographs are those of the demo, from twelve packages, in six classes by their paths.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tidegate.models.benchmarks import efficientnet_lite
from tidegate.models.benchmarks.gates import probe
from tidegate.models.benchmarks.gates.measure import measure
from tidegate.models.commands import import_model
from tidegate.models.data.outputs import extract
from tidegate.models.demo.photographs import Photograph, photographs
from tidegate.models.evaluation.expected_share import ExpectedShares
from tidegate.models.fitting.conformal import GateTarget, Scores, calibrate, combine, final_p_values
from tidegate.models.fitting.fit import FitOptions, fit, score_rows
from tidegate.models.package_files import DOWNLOADS
from tidegate.models.pipeline import Data, read_splits
from tidegate.models.sealing.unseal import unseal
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
PARTITIONS = 200


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
    folder = tmp_path_factory.mktemp("lite1")
    encoder, spec = efficientnet_lite.encoder("lite1"), efficientnet_lite.spec("lite1")
    words = probe.write(encoder, spec, data.train, folder)
    splits = [f"--{split}={getattr(data, split)}" for split in SHARES]
    named = ["--name=photographs", "--version=1", f"--out={folder}"]
    import_model.run(import_model.parser().parse_args([*words, *splits, *named]))
    return open_bundle(folder / "photographs" / "1")


def test_new_photographs_are_flagged_at_the_declared_rate(bundle: Bundle, data: Data) -> None:
    row = measure(bundle.path, data)

    assert row.flagged is not None
    assert row.expected is not None
    assert row.flagged.images >= 170
    assert row.expected.low <= row.flagged.value <= row.expected.high


def test_over_partitions_photographs_are_flagged_at_the_declared_rate_on_average(
    bundle: Bundle, data: Data, tmp_path: Path
) -> None:
    """The scores are chosen once, on the selection images; the other images change places."""
    spec, options = bundle.manifest.preprocess, FitOptions()
    splits = read_splits(data, bundle.labels, options.target)
    backbone = unseal(bundle.model_path.read_bytes())
    fitted = fit(backbone, spec, splits, bundle.labels, options, tmp_path)
    test = extract(fitted.graph, splits.test, spec, tmp_path)
    parts = [score_rows(fitted.head, part) for part in (*fitted.folds, test)]
    pool = Scores(
        {name: np.concatenate([p.values[name] for p in parts]) for name in fitted.head.names},
        np.concatenate([p.predicted for p in parts]),
    )
    bounds = np.cumsum([len(part) for part in parts])[:-1]
    rng = np.random.default_rng(0)
    shares, inside = [], 0
    for _ in range(PARTITIONS):
        a, b, new = (pool.part(r) for r in np.split(rng.permutation(len(pool)), bounds))
        gate = calibrate(a, b, len(CLASSES), GateTarget(), fitted.gate.combination)
        p = final_p_values(gate, combine(gate.folds_a, gate.combination, new.values), new.predicted)
        expected = ExpectedShares.of(gate, new.predicted).flagged
        shares.append(float((p <= gate.alpha_review).mean()))
        inside += expected.low <= shares[-1] <= expected.high

    assert 0.045 <= np.mean(shares) <= 0.055
    assert inside >= 0.93 * PARTITIONS
