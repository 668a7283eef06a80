"""The pictures of emoji are cut into splits that share no emoji and no picture."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from tidegate.models.benchmarks.gates import emoji
from tidegate.models.package_files import Archive


def package(path: Path, vendor: str) -> Path:
    """A package with 40 emoji of two categories, of which the last two have the same picture."""
    listed = [
        {"unified": f"1F{n:03X}", "image": f"{n}.png", "category": ("Flags", "Objects")[n % 2]}
        for n in range(40)
    ]
    files = {"package/emoji.json": json.dumps(listed).encode()}
    for n in range(40):
        files[f"package/img/{vendor}/64/{n}.png"] = f"{vendor} {min(n, 38)}".encode()
    with tarfile.open(path / f"{vendor}.tgz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path / f"{vendor}.tgz"


def test_splits_share_no_emoji_and_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(archive: Archive, _given: None, _downloads: Path) -> Path:
        return package(tmp_path, archive.package.rpartition("-")[2])

    monkeypatch.setattr(emoji, "find", found)

    data = emoji.data(tmp_path / "images")

    folders = [tmp_path / "images" / split for split in data.labelled]
    splits = [sorted(folder.rglob("*.png")) for folder in folders]
    codes = [{path.name.partition("-")[0] for path in split} for split in splits]
    pictures = [path.read_bytes() for split in splits for path in split]
    assert sum(map(len, codes)) == len(set.union(*codes)) == 39
    assert len(pictures) == len(set(pictures)) == 2 * 39
    assert all(codes)
    assert {path.parent.name for path in splits[0]} == {"Flags", "Objects"}
