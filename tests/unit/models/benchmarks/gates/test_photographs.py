"""The demo's photographs become ImageFolders; the drawn images are those of the packages."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tidegate.models.benchmarks.gates import drawn, emoji, photographs
from tidegate.models.demo import debian
from tidegate.models.demo.photographs import Photograph
from tidegate.models.package_files import Archive
from tidegate.service.types import Pixels


def photograph(name: str, digest: int) -> Photograph:
    return Photograph("package", name, Pixels(np.zeros((4, 4, 3), np.uint8)), f"{digest:064x}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("stamps/animals/birds/owl.png", "animals"),
        ("dist/demo/faces/female/1.jpg", "people"),
        ("stamps/town/church.png", "buildings"),
        ("demo/photos/david.jpg", "scenes"),
    ],
)
def test_a_photograph_s_class_is_in_its_path(path: str, expected: str) -> None:
    assert photographs.class_of(photograph(path, 0)) == expected


def test_photographs_are_in_one_split_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [photograph("animals/x.png", n) for n in range(10)]
    monkeypatch.setattr(photographs, "found_in", lambda _: found)

    data = photographs.data(tmp_path / "images", tmp_path)

    folders = [tmp_path / "images" / split for split in data.labelled]
    splits = [list(folder.rglob("*.png")) for folder in folders]
    assert [len(split) for split in splits] == [4, 4, 2]
    assert len({path.name for split in splits for path in split}) == 10


def png(side: int, level: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (side, side), level).save(content, "png")
    return content.getvalue()


@pytest.mark.lengthy
def test_each_set_of_drawn_images_is_spread_over_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_debian(path: Path) -> list[tuple[str, bytes]]:
        name = path.name.partition("_")[0]
        folder = {
            "adwaita-icon-theme": "usr/share/icons/Adwaita/64x64/legacy",
            "kphotoalbum": "usr/share/doc/HTML/en/kphotoalbum",
        }.get(name, "other")
        return [(f"{folder}/{n}.png", png(64, n)) for n in range(120)]

    def found(package: Archive, _given: None, _downloads: Path) -> Path:
        path = tmp_path / package.filename
        with tarfile.open(path, "w:gz") as archive:
            for name, side in (("a-full", 64), ("b-full", 20), ("a-dark-full", 64), ("a", 64)):
                content = png(side, len(name))
                member = tarfile.TarInfo(f"package/dist/static/emails/{name}.jpg")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    monkeypatch.setattr(debian, "fetch", lambda package, folder: folder / package.filename)
    monkeypatch.setattr(debian, "files", in_debian)
    monkeypatch.setattr(drawn, "find", found)
    monkeypatch.setattr(emoji, "pictures", lambda _: [("1F600", "Smileys", png(64, 7))] * 2)
    monkeypatch.setattr(drawn, "PER_SET", 5)

    sets = drawn.data(tmp_path / "drawn", tmp_path)

    assert {name: len(paths) for name, paths in sets.items()} == {
        "screenshots": 5,
        "pages": 1,
        "charts": 5,
        "icons": 5,
        "emoji": 1,
    }
    assert sets == drawn.data(tmp_path / "drawn", tmp_path)
    levels = [Image.open(path).getpixel((0, 0)) for path in sets["icons"]]
    assert levels == [0, 24, 48, 72, 96]
