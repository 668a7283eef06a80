"""A folder of classes becomes three splits without leaks."""

from __future__ import annotations

import os
import shutil
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.unit.models.training.pictures import classes, nearly, picture, put
from tidegate.models.data import training_data
from tidegate.models.data.training_data import SPLITS, TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.training.division import Shares
from tidegate.models.training.split import check, divide, make
from tidegate.service.files import sha256_of

COUNTS = {"cat": 20, "dog": 40}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classes(tmp_path_factory.mktemp("divided"), COUNTS)


def contents(data: TrainingData) -> list[list[str]]:
    return [sorted(sha256_of(image.path) for image in data.images(name)) for name in SPLITS]


def place(data: TrainingData, name: str) -> str:
    return next(s for s in SPLITS for image in data.images(s) if image.path.name == name)


def seed(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode())


def test_every_class_has_its_share_in_each_split(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(root)

    assert data.classes == ("cat", "dog")
    counts = {s: Counter(image.class_id for image in data.images(s)) for s in SPLITS}
    assert counts == {
        "train": {0: 12, 1: 24},
        "calibrate": {0: 5, 1: 10},
        "test": {0: 3, 1: 6},
    }
    assert "2 classes; images: train 36, calibrate 15, test 9." in capsys.readouterr().err


@pytest.mark.lengthy
def test_the_division_depends_on_contents_and_seed_and_not_on_names(
    root: Path, tmp_path: Path
) -> None:
    renamed = tmp_path / "renamed"
    for index, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):
        to = renamed / path.parent.name / f"deep/{index}.png"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)

    assert contents(divide(renamed).data) == contents(divide(root).data)
    assert contents(divide(root, seed=1).data) != contents(divide(root).data)


def test_the_file_lists_the_images_and_fixes_the_order_of_the_classes(
    root: Path, tmp_path: Path
) -> None:
    division = divide(root, Shares(0.5, 0.25, 0.25), seed=3)
    file = tmp_path / "splits.json"
    division.write(file)

    assert training_data.read(file) == division.data
    text = file.read_text()
    assert f'"root": "{root}"' in text
    assert '"shares": {"train": 0.5, "calibrate": 0.25, "test": 0.25}' in text


def test_a_splits_file_is_divided_already(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "splits.json"
    divide(root).write(file)

    check(file)
    with pytest.raises(BuildRefused, match="is divided already: leave out --groups and --divide-a"):
        check(file, groups="x", keep_alike=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"format": "tidegate-splits/1"', '"format": "2"'), "is not a splits file: format"),
        (('"root": "', '"root": "/missing'), "does not exist: correct `root`"),
        ((".png", ".gif"), "60 of 60 images of .* are missing, such as"),
        (('"classes": ["cat", "dog"]', '"classes": ["cat", "cat"]'), "names a class twice"),
        (('"classes": ["cat", "dog"]', '"classes": ["cat"]'), "is not a splits file: classes"),
    ],
)
def test_a_splits_file_that_does_not_fit_is_refused(
    root: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    file = tmp_path / "splits.json"
    divide(root).write(file)
    file.write_text(file.read_text().replace(*change))

    with pytest.raises(BuildRefused, match=message):
        training_data.read(file)


def test_the_same_pixels_in_another_file_are_one_image(tmp_path: Path) -> None:
    folder = classes(tmp_path, COUNTS)
    put(folder / "dog/again.bmp", picture(1005))

    division = divide(folder)

    assert [path.parent.name for path in division.repeated] == ["dog"]
    assert sum(map(len, contents(division.data))) == 60
    assert "1 files have the same pixels as another one" in "\n".join(division.report())


@pytest.mark.lengthy
def test_images_that_are_nearly_the_same_are_in_one_split(tmp_path: Path) -> None:
    folder = classes(tmp_path, COUNTS)
    for seed in range(4):
        put(folder / f"dog/like-{seed}.png", nearly(picture(1007), seed))

    divisions = [divide(folder, seed=seed) for seed in range(5)]

    for division in divisions:
        assert len({place(division.data, f"like-{i}.png") for i in range(4)}) == 1
        assert place(division.data, "007.png") == place(division.data, "like-0.png")
        assert [len(paths) for paths in division.alike] == [5]
    apart = divide(folder, keep_alike=False).data
    assert len({place(apart, f"like-{i}.png") for i in range(4)}) > 1


@pytest.mark.lengthy
def test_a_chain_of_like_images_that_no_split_can_hold_is_divided(tmp_path: Path) -> None:
    folder = classes(tmp_path, {"cat": 20})
    for step in range(120):  # each is like the next one
        part = step / 119
        pixels = picture(5000) * (1 - part) + picture(5001) * part
        put(folder / f"dog/{step:03}.png", pixels.astype(np.uint8))

    division = divide(folder)

    assert division.chained == 120
    assert "120 images form chains of like images" in "\n".join(division.report())
    counts = [sum(i.class_id == 1 for i in division.data.images(s)) for s in SPLITS]
    assert min(counts) >= 4


def test_images_of_one_named_group_are_in_one_split(tmp_path: Path) -> None:
    folder = tmp_path
    for label, first in (("cat", 0), ("dog", 1000)):
        for index in range(40):
            put(folder / label / f"patient{index // 4:02}_{index}.png", picture(first + index))

    data = divide(folder, groups=r"patient(\d+)").data

    groups = {s: {image.path.name[:9] for image in data.images(s)} for s in SPLITS}
    assert groups["train"].isdisjoint(groups["calibrate"] | groups["test"])
    assert groups["calibrate"].isdisjoint(groups["test"])
    assert len(groups["train"]) == 6


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("(", "is not a regular expression"),
        ("patient", r"--groups 'patient' matches nothing in (cat|dog)/"),
        ("png", "puts every image into one group"),
    ],
)
def test_a_wrong_expression_for_groups_is_refused(root: Path, groups: str, message: str) -> None:
    with pytest.raises(BuildRefused, match=message):
        divide(root, groups=groups)


def test_an_image_in_two_classes_is_refused_with_both_names(tmp_path: Path) -> None:
    folder = classes(tmp_path, COUNTS)
    put(folder / "dog/again.bmp", picture(5))

    with pytest.raises(BuildRefused, match="are the same image in two classes") as refused:
        divide(folder)

    assert {"005.png", "again.bmp", "(cat)", "(dog)"} <= {
        word.rpartition("/")[2] for word in str(refused.value).split()
    }


@pytest.mark.lengthy
def test_few_broken_files_are_left_out_and_named_and_many_are_refused(tmp_path: Path) -> None:
    folder = classes(tmp_path, {"cat": 20, "dog": 90})
    (folder / "dog/torn.jpg").write_bytes(b"no image")

    division = divide(folder)

    assert "1 files cannot be decoded and are left out: dog/torn.jpg." in division.report()[-1]
    (folder / "dog/torn2.jpg").write_bytes(b"no image")
    with pytest.raises(BuildRefused, match="2 of 112 files cannot be decoded"):
        divide(folder)


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = classes(tmp_path, COUNTS)
    (folder / "cat/000.png").rename(folder / "cat" / os.fsdecode(b"\xe9.png"))

    with pytest.raises(BuildRefused, match=r"\.png' is not UTF-8: rename it"):
        divide(folder)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("\u00e9", "e\u0301")])
def test_classes_whose_names_look_the_same_are_pointed_out(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    division = divide(classes(tmp_path, dict.fromkeys(names, 20)))

    assert "differ in case or encoding alone" in division.report()[-1]


def test_links_keep_their_names(tmp_path: Path) -> None:
    files = classes(tmp_path / "files", COUNTS)
    for path in sorted(files.rglob("*.png")):
        link = tmp_path / "links" / path.parent.name / f"link-{path.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    file = tmp_path / "splits.json"

    divide(tmp_path / "links").write(file)

    names = {image.path.relative_to(tmp_path).parts[0] for image in training_data.read(file).every}
    assert names == {"links"}


def test_a_class_with_too_few_images_is_refused_before_an_image_is_read(tmp_path: Path) -> None:
    for label, count in (("cat", 20), ("dog", 7)):
        for index in range(count):
            (tmp_path / label).mkdir(exist_ok=True)
            (tmp_path / label / f"{index}.png").write_bytes(b"not read")

    with pytest.raises(
        BuildRefused, match="1 classes have fewer than 8 images, such as 'dog' with 7"
    ):
        check(tmp_path)


def test_a_class_of_few_like_groups_is_refused_with_the_number_needed(tmp_path: Path) -> None:
    folder = classes(tmp_path, {"cat": 20})
    for index in range(30):
        put(folder / f"dog/{index}.png", nearly(picture(900 + index // 15), index))

    with pytest.raises(BuildRefused, match=r"'dog' has 30 images in 2 groups .* 8 unlike images"):
        divide(folder)


@pytest.mark.parametrize("shares", [Shares(0.6, 0.6, 0.1), Shares(1.0, 0.0, 0.0)])
def test_shares_must_be_parts_of_one(root: Path, shares: Shares) -> None:
    with pytest.raises(BuildRefused, match="each must be above 0, and their sum 1"):
        check(root, shares)


def test_a_divided_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for split, count in (("train", 8), ("val", 4), ("test", 3)):
        classes(tmp_path / split, {"cat": count})
        for index in range(count):
            put(tmp_path / split / f"dog/{index}.png", picture(seed(split, index)))
        for path in (tmp_path / split / "cat").iterdir():
            put(path, picture(seed(split, path.name)))
    put(tmp_path / "test/dog/like.png", nearly(picture(seed("train", 0)), 1))

    division = divide(tmp_path)

    assert [len(division.data.images(s)) for s in SPLITS] == [16, 8, 7]
    assert "1 of 7 images of test are nearly the same as an image of train" in division.notes[0]
    shutil.copy(tmp_path / "train/cat/000.png", tmp_path / "test/cat/new.png")
    with pytest.raises(BuildRefused, match=r"\(train\) and .*new.png \(test\) have the same"):
        divide(tmp_path)
    with pytest.raises(BuildRefused, match="is divided already: leave out --shares"):
        check(tmp_path, Shares())


def test_a_folder_that_is_divided_in_part_is_refused(tmp_path: Path) -> None:
    classes(tmp_path / "train", {"cat": 1, "dog": 1})
    classes(tmp_path / "val", {"cat": 1, "dog": 1})

    with pytest.raises(BuildRefused, match="of the folders test, testing it has none"):
        check(tmp_path)
