"""A linear layer on a frozen backbone becomes a model that can be sealed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.models import tiny
from tests.unit.models.colour_folders import LABELS, folders, imported
from tidegate.models.data.folders import images_by_class
from tidegate.models.data.outputs import load_pixels
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import run_once
from tidegate.models.parity.preprocessing import normalised
from tidegate.models.training import probe

CLASSES = ("warm", "cold")  # not those of the backbone
_WARM = ("red", "yellow")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    found = folders(tmp_path_factory.mktemp("colours"), train=12, calibrate=1, test=4)
    images = {
        split: [
            Labelled(path, int(label not in _WARM))
            for label, paths in images_by_class(source, LABELS).items()
            for path in paths
        ]
        for split, source in found.labelled.items()
    }
    return TrainingData.of(CLASSES, images)  # type: ignore[arg-type]  # its keys are the splits


@pytest.mark.lengthy
def test_the_model_classifies_the_new_classes(
    data: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = probe.imported(imported(), data, why="A test.", seed=0, cache=tmp_path)

    batch = np.stack([normalised(load_pixels(i.path, tiny.SPEC), tiny.SPEC) for i in data.test])
    (logits,) = run_once(made.backbone, ("logits",), batch)
    assert (logits.argmax(axis=1) == [i.class_id for i in data.test]).mean() > 0.9
    assert made.labels == CLASSES
    assert made.source == "a linear layer on the features of made in a test"
    assert "Linear layer, natural: accuracy" in capsys.readouterr().err


@pytest.mark.lengthy
def test_its_record_is_for_the_card(data: TrainingData, tmp_path: Path) -> None:
    made = probe.imported(imported(), data, why="A test.", seed=3, cache=tmp_path)

    record = made.training
    assert record is not None
    assert (record.recipe, record.why, record.seed) == ("probe", "A test.", 3)
    assert record.images == {"training": 60}
    assert record.settings["features"] == "6"
    assert record.versions[0].startswith("scikit-learn ")


def test_an_export_that_is_not_its_framework_s_model_is_refused(
    data: TrainingData, tmp_path: Path
) -> None:
    other = imported(forward=lambda images: np.ones((len(images), len(LABELS)), np.float32))

    with pytest.raises(BuildRefused, match="the export does not equal the trained model"):
        probe.imported(other, data, why="A test.", seed=0, cache=tmp_path)
