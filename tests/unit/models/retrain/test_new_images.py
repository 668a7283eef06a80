"""Labelled images of a review export join the old splits, and never the old test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.models.training.pictures import classes, nearly, picture, put
from tidegate.models.data import training_data
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.retrain.new_images import add, listed
from tidegate.models.training.division import Shares
from tidegate.models.training.split import divide

SHARES = Shares()


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return divide(classes(tmp_path_factory.mktemp("old"), {"cat": 20, "dog": 20})).data


def export(root: Path, count: int = 20) -> Path:
    """Write new images as `tidegate review export` does: by class id, and unlabelled ones."""
    for index in range(count):
        put(root / f"{index % 2}/{index}.png", picture(7000 + index))
    put(root / "unlabelled/0-cat/x.png", picture(7999))
    return root


def test_new_images_join_train_and_calibrate_and_the_test_stays(
    old: TrainingData, tmp_path: Path
) -> None:
    added = add(old, export(tmp_path), SHARES, 0)

    data = added.data
    assert data.test == old.test
    assert (len(data.train), len(data.calibrate)) == (len(old.train) + 12, len(old.calibrate) + 6)
    assert len(added.held_out) == len(data.held_out) == 2
    assert added.lines[0] == "20 new images: 12 for training, 6 for calibration, 2 held out."
    assert added.lines[-1] == "1 images have no label yet (unlabelled)."


@pytest.mark.lengthy
def test_the_next_retraining_knows_them(old: TrainingData, tmp_path: Path) -> None:
    first = add(old, export(tmp_path / "export"), SHARES, 0).data
    training_data.write(tmp_path / "splits.json", tmp_path, first, {})
    again = training_data.read(tmp_path / "splits.json")
    put(tmp_path / "export/1/later.png", picture(7500))

    second = add(again, tmp_path / "export", SHARES, 0)

    assert again == first
    assert len(second.data.every) == len(first.every) + 1
    assert second.data.held_out[:2] == first.held_out
    assert "20 images are in the old splits already." in second.lines


def test_what_is_nearly_an_image_of_the_old_test_is_left_out(
    old: TrainingData, tmp_path: Path
) -> None:
    export(tmp_path)
    for index, split in enumerate((old.test, old.calibrate, old.train)):
        seed = int(split[0].path.stem) + 1000 * split[0].class_id
        put(tmp_path / f"{split[0].class_id}/like-{index}.png", nearly(picture(seed), 1))

    added = add(old, tmp_path, SHARES, 0)

    places = {
        image.path.name: name
        for name in ("train", "calibrate", "held_out")
        for image in getattr(added.data, name)
    }
    assert "like-0.png" not in places
    assert (places["like-1.png"], places["like-2.png"]) == ("calibrate", "train")
    assert "1 images are nearly the same as an image of the old test and are left out." in (
        added.lines
    )


def test_new_images_that_are_like_each_other_follow_the_one_that_is_like_an_old_one(
    old: TrainingData, tmp_path: Path
) -> None:
    image = old.train[0]
    first = picture(int(image.path.stem) + 1000 * image.class_id)
    for step in range(1, 40):  # each is like the next one, and the last unlike the first
        part = step / 119
        pixels = first * (1 - part) + picture(6000) * part
        put(tmp_path / f"{image.class_id}/{step}.png", pixels.astype(np.uint8))
    put(tmp_path / f"{image.class_id}/unlike.png", picture(6001))

    data = add(old, tmp_path, SHARES, 0).data

    added = {i.path.stem for i in data.train} & {str(step) for step in range(1, 40)}
    assert len(added) == 39


def test_a_label_that_contradicts_an_old_one_is_refused(old: TrainingData, tmp_path: Path) -> None:
    image = old.train[0]
    put(
        tmp_path / f"{1 - image.class_id}/wrong.png",
        picture(int(image.path.stem) + 1000 * image.class_id),
    )

    with pytest.raises(BuildRefused, match=r"wrong.png is labelled .* the same image"):
        add(old, tmp_path, SHARES, 0)


def test_an_export_without_news_is_refused(old: TrainingData, tmp_path: Path) -> None:
    image = old.train[0]
    put(
        tmp_path / f"{image.class_id}/again.png",
        picture(int(image.path.stem) + 1000 * image.class_id),
    )

    with pytest.raises(BuildRefused, match=r"None of the 1 labelled images .* is new"):
        add(old, tmp_path, SHARES, 0)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("bird", r"bird is not named like a class \(cat, dog\) or its id, 0 to 1"),
        ("2", "2 is not named like a class"),
        ("unlabelled", r"No image in .* has a label \(1 are in unlabelled\)"),
    ],
)
def test_folders_are_checked_before_an_image_is_read(
    tmp_path: Path, folder: str, message: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "x.png").write_bytes(b"not read")

    with pytest.raises(BuildRefused, match=message):
        listed(tmp_path, ("cat", "dog"))


def test_folders_may_have_the_classes_names(tmp_path: Path) -> None:
    for name in ("dog", "0"):
        put(tmp_path / name / "x.png", picture(1))

    images, unlabelled = listed(tmp_path, ("cat", "dog"))

    assert ([image.class_id for image in images], unlabelled) == ([0, 1], 0)


def test_a_number_that_is_a_label_and_another_id_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "1/x.png", picture(1))

    with pytest.raises(BuildRefused, match="1 is the label of class 0 and the id of another one"):
        listed(tmp_path, ("1", "0"))


def test_the_classes_get_the_ids_of_the_bundle(old: TrainingData) -> None:
    turned = old.ordered(("dog", "cat"))

    assert turned.classes == ("dog", "cat")
    assert [i.class_id for i in turned.train] == [1 - i.class_id for i in old.train]
    with pytest.raises(BuildRefused, match="not of the model's classes: bird, cat"):
        old.ordered(("dog", "bird"))
