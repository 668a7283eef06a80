"""Reading the wheel and the packages: .deb archives, Qt resource files, which are photographs."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tidegate.models.demo import debian, qt_resources, source
from tidegate.models.demo.debian import Package
from tidegate.models.demo.photographs import (
    SPLITS,
    from_tree,
    read_photographs,
    split,
    split_digest,
)
from tidegate.models.errors import BuildRefused

STAMPS = "usr/share/tuxpaint/stamps/"
RCC = "usr/share/gcompris-qt/rcc/"


def picture(seed: int, size: tuple[int, int] = (120, 120), kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, kind)
    return content.getvalue()


def deb(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo("./" + name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    body = b"!<arch>\n"
    for name, content in members.items():
        body += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        body += content + b"\n" * (len(content) % 2)
    return body


def resource_file(files: dict[str, bytes]) -> bytes:
    """One folder "d" with `files`, the second of them compressed, as rcc writes format 3."""
    names, data, nodes = b"", b"", b""

    def named(name: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return at

    def node(name: int, flags: int, first: int, second: int) -> bytes:
        return struct.pack(">IHIIQ", name, flags, first, second, 0)

    nodes += node(0, 2, 1, 1) + node(named("d"), 2, len(files), 2)
    for index, (name, content) in enumerate(files.items()):
        if packed := index == 1:
            content = struct.pack(">I", len(content)) + zlib.compress(content)
        nodes += node(named(name), int(packed), 0, len(data))
        data += struct.pack(">I", len(content)) + content
    header = struct.pack(">4sIIIII", b"qres", 3, 24 + len(data) + len(names), 24, 24 + len(data), 0)
    return header + data + names + nodes


def test_the_files_of_a_deb_are_read_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/share/a": b"one", "usr/b": b"two"}))

    assert dict(debian.files(path)) == {"usr/share/a": b"one", "usr/b": b"two"}


def test_a_deb_without_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(b"!<arch>\n")

    with pytest.raises(BuildRefused, match=r"data\.tar"):
        list(debian.files(path))


def test_a_deb_at_hand_is_verified_not_fetched(tmp_path: Path) -> None:
    content = deb({"a": b"1"})
    package = Package("thing", "1.0", hashlib.sha256(content).hexdigest())
    (tmp_path / "thing_1.0_all.deb").write_bytes(content)

    assert debian.fetch(package, tmp_path) == tmp_path / "thing_1.0_all.deb"


def test_another_deb_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing_1.0_all.deb").write_bytes(deb({"a": b"1"}))

    with pytest.raises(BuildRefused, match="not the pinned"):
        debian.fetch(Package("thing", "1.0", "0" * 64), tmp_path)


def test_the_files_of_a_qt_resource_file_are_read() -> None:
    content = resource_file({"a.png": b"plain", "b.webp": b"packed" * 9, "c": b""})

    assert dict(qt_resources.files(content)) == {
        "d/a.png": b"plain",
        "d/b.webp": b"packed" * 9,
        "d/c": b"",
    }


def test_another_file_is_no_qt_resource_file() -> None:
    with pytest.raises(BuildRefused, match="Qt resource"):
        list(qt_resources.files(b"qres\0\0\0\2" + bytes(20)))


@pytest.mark.parametrize(
    "name",
    [
        "symbols/math/plus.png",
        "food/fruit/cartoon/apple.png",
        "town/flags/red.png",
        "town/roadsigns/stop.png",
        "military/vehicles/tank_mirror.png",
        "town/monuments/inukshuk-outline.png",
        "animals/dogs/dog.txt",
    ],
)
def test_what_is_no_photograph_is_left_out(name: str) -> None:
    assert read_photographs([(STAMPS + name, picture(0))]) == []


def test_photographs_of_both_packages_are_kept_once(tmp_path: Path) -> None:
    inside = resource_file({"x.png": picture(2)})
    sources = [
        (STAMPS + "animals/dogs/dog.png", picture(0)),
        (STAMPS + "animals/dogs/same-dog.png", picture(0)),
        (STAMPS + "animals/dogs/tiny.png", picture(1, (40, 200))),
        (STAMPS + "animals/dogs/broken.png", picture(3)[:200]),
        (RCC + "not-chosen.rcc", inside),
    ]

    kept = read_photographs(sources)

    assert [item.name for item in kept] == [STAMPS + "animals/dogs/dog.png"]


def test_order_of_reading_does_not_matter() -> None:
    sources = [(f"{STAMPS}animals/{index}.png", picture(index)) for index in range(6)]

    forwards, backwards = read_photographs(sources), read_photographs(sources[::-1])

    assert split_digest(forwards) == split_digest(backwards)


def test_splits_are_disjoint_and_leave_nothing_out() -> None:
    photographs = read_photographs(
        [(f"{STAMPS}animals/{index}.png", picture(index)) for index in range(20)]
    )

    parts = split(photographs)

    assert {name: len(items) for name, items in parts.items()} == {
        name: round(share * 20) for name, share in SPLITS.items()
    }
    assert sorted(item.digest for items in parts.values() for item in items) == [
        item.digest for item in photographs
    ]


def test_a_folder_without_the_packages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match="unpack both packages"):
        list(from_tree(tmp_path))


def test_an_unpacked_tree_is_read(tmp_path: Path) -> None:
    (tmp_path / STAMPS / "animals").mkdir(parents=True)
    (tmp_path / STAMPS / "animals/dog.png").write_bytes(picture(0))
    (tmp_path / RCC).mkdir(parents=True)

    assert dict(from_tree(tmp_path)) == {STAMPS + "animals/dog.png": picture(0)}


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"nowhere\.whl"):
        source.find_wheel(tmp_path / "nowhere.whl")


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"PK")

    with pytest.raises(BuildRefused, match="not the pinned"):
        source.find_wheel(tmp_path / "x.whl")


def test_the_copy_in_downloads_is_used(wheel: source.Wheel) -> None:
    assert source.find_wheel(None, wheel.path.parent).path == wheel.path
