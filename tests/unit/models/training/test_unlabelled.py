"""Images without classes: which of them a student may see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.models.training.pictures import nearly, picture, put
from tidegate.models.data.training_data import Labelled, TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.training.unlabelled import choose


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    rows = {
        split: [Labelled(put(tmp_path / f"data/{split}.png", picture(seed)), 0)]
        for seed, split in enumerate(("train", "calibrate", "test"))
    }
    return TrainingData.of(("cat", "dog"), rows)  # type: ignore[arg-type]  # its keys are the splits


def test_images_that_calibration_or_test_know_are_left_out(
    data: TrainingData, tmp_path: Path
) -> None:
    export = tmp_path / "export"
    new = put(export / "unlabelled/0/new.png", picture(10))
    labelled = put(export / "1/labelled.png", picture(11))
    copy = put(export / "unlabelled/0/copy.bmp", picture(10))
    put(export / "unlabelled/1/known.png", picture(0))
    put(export / "unlabelled/1/calibrated.png", picture(1))
    put(export / "unlabelled/1/like-test.png", nearly(picture(2), 5))
    put(export / "unlabelled/1/unknown.png", picture(12))
    (export / "unlabelled/1/broken.png").write_bytes(b"no image")

    found = choose([export], data, lambda path: path.name == "unknown.png")

    assert {*found.images} in ({labelled, new}, {labelled, copy})
    assert found.lines == (
        "2 images without classes: the student learns the teacher's answers.",
        "1 images of --unlabelled cannot be decoded and are left out.",
        "1 images of --unlabelled have the pixels of another one and are left out.",
        "2 images of --unlabelled are in --data already and are left out.",
        "1 images of --unlabelled are nearly the same as a calibration or test image and are left "
        "out.",
        "1 images of --unlabelled are rejected by the teacher's gate and are left out.",
    )


def test_a_folder_of_which_nothing_is_left_says_why(data: TrainingData, tmp_path: Path) -> None:
    put(tmp_path / "more/a.png", picture(0))
    put(tmp_path / "more/b.png", picture(10))

    with pytest.raises(
        BuildRefused, match=r"None of the 2 images .* 1 are in --data, 0 .* 1 are r"
    ):
        choose([tmp_path / "more"], data, lambda path: True)
