"""Image folders become splits, and no image is in two of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tidegate.models.data.folders import (
    check_disjoint,
    class_names,
    cut,
    labelled,
    shuffled,
    unlabelled,
)
from tidegate.models.errors import BuildRefused


def put(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def train(tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    for seed, name in enumerate(["cat/1.png", "cat/deep/2.PNG", "dog/3.png", "bird/4.png"]):
        put(folder / name, seed)
    (folder / "cat/notes.txt").write_text("no image")
    (folder / ".cache").mkdir()
    return folder


def test_classes_are_numbered_by_name_as_training_numbers_them(train: Path) -> None:
    classes = class_names(train)

    split = labelled("train", train, classes)

    assert classes == ("bird", "cat", "dog")
    assert [(item.path.name, item.class_id) for item in split.items] == [
        ("4.png", 0),
        ("1.png", 1),
        ("2.PNG", 1),
        ("3.png", 2),
    ]


def test_classes_may_be_numbered_otherwise_and_some_may_have_no_folder(train: Path) -> None:
    split = labelled("train", train, ("dog", "fish", "cat", "bird"))

    assert split.class_ids.tolist() == [3, 2, 2, 0]


def test_a_folder_that_is_not_a_class_is_rejected(train: Path) -> None:
    with pytest.raises(
        BuildRefused, match=r"'bird', which is not a class of the model \(cat, dog\)"
    ):
        labelled("test", train, ("cat", "dog"))


def test_a_folder_without_class_folders_is_explained(tmp_path: Path) -> None:
    put(tmp_path / "1.png", 0)

    with pytest.raises(BuildRefused, match="0 class folders, but at least two are needed"):
        class_names(tmp_path)
    with pytest.raises(BuildRefused, match="does not exist"):
        class_names(tmp_path / "missing")
    with pytest.raises(BuildRefused, match="contains no image"):
        labelled("test", tmp_path, ("a", "b"))


def test_repeated_content_is_used_once(train: Path) -> None:
    shutil.copy(train / "cat/1.png", train / "cat/9.png")

    split = labelled("train", train, class_names(train))

    assert len(split.items) == 4
    assert split.repeated == 1


def test_one_image_in_two_classes_is_refused(train: Path) -> None:
    shutil.copy(train / "cat/1.png", train / "dog/9.png")

    with pytest.raises(BuildRefused, match=r"1\.png and .*9\.png are the same image in two cl"):
        labelled("train", train, class_names(train))


def test_an_image_in_two_splits_is_refused_by_content_whatever_its_name(
    train: Path, tmp_path: Path
) -> None:
    put(tmp_path / "ood/a.png", 7)
    shutil.copy(train / "dog/3.png", tmp_path / "ood/other-name.png")
    splits = labelled("train", train, class_names(train)), unlabelled("ood", tmp_path / "ood")

    with pytest.raises(BuildRefused, match=r"3\.png \(train\) and .*other-name\.png \(ood\)"):
        check_disjoint(splits)


def test_the_digest_is_of_the_images_not_of_their_names_or_order(
    train: Path, tmp_path: Path
) -> None:
    classes = class_names(train)
    before = labelled("train", train, classes)

    (train / "cat/1.png").rename(train / "cat/renamed.png")

    after = labelled("x", train, classes)
    assert after.digest == before.digest == shuffled(after).digest
    put(train / "cat/1.png", 99)
    assert labelled("train", train, classes).digest != before.digest


def test_parts_are_cut_without_loss_or_overlap() -> None:
    for n in range(40):
        parts = cut(n, {"a": 0.2, "b": 0.4, "c": 0.4})

        rows = [row for part in parts.values() for row in range(n)[part]]
        assert rows == list(range(n))
