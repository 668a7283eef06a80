"""Reading the wheel and the packages: .deb archives, Qt resource files, which are photographs."""

from __future__ import annotations

import hashlib
import io
import re
import struct
import tarfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tidegate.models.demo import debian, qt_resources, source
from tidegate.models.demo.debian import Package
from tidegate.models.demo.photographs import (
    SOURCES,
    SPLITS,
    Photograph,
    Source,
    photographs,
    read_photographs,
    split,
    split_digest,
    without_copies,
)
from tidegate.models.demo.spec import LABELS_FILE
from tidegate.models.demo.temperature import class_ids_by_photograph
from tidegate.models.errors import BuildRefused
from tidegate.models.package_files import Archive
from tidegate.service.types import Pixels

STAMPS = "usr/share/tuxpaint/stamps/"


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


STAMP_SOURCE = next(item for item in SOURCES if item.name == "tuxpaint-stamps-default")


def smooth(seed: int, side: int = 120) -> bytes:
    """A picture that still looks the same in another size."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(content, "PNG")
    return content.getvalue()


def stamps(files: dict[str, bytes]) -> list[Photograph]:
    return read_photographs(STAMP_SOURCE, [(STAMPS + name, data) for name, data in files.items()])


@pytest.mark.parametrize(
    "name",
    [
        "symbols/math/plus.png",
        "food/fruit/cartoon/apple.png",
        "food/pizza.png",
        "town/flags/red.png",
        "town/roadsigns/stop.png",
        "military/vehicles/tank_mirror.png",
        "town/monuments/inukshuk-outline.png",
        "animals/dogs/dog.txt",
    ],
)
def test_what_is_no_photograph_is_left_out(name: str) -> None:
    assert stamps({name: picture(0)}) == []


def test_small_and_broken_images_are_left_out() -> None:
    found = stamps(
        {
            "animals/dog.png": picture(0),
            "animals/tiny.png": picture(1, (40, 200)),
            "animals/broken.png": picture(3)[:200],
        }
    )

    assert [item.name for item in found] == [STAMPS + "animals/dog.png"]


def test_of_photographs_that_look_alike_one_is_kept() -> None:
    found = stamps({"a.png": smooth(0), "b.png": smooth(0, 300), "c.png": smooth(1)})

    kept = without_copies(found)

    assert len({item.digest for item in found}) == 3
    assert len(kept) == 2
    assert STAMPS + "c.png" in [item.name for item in kept]


def test_order_of_reading_does_not_matter() -> None:
    found = stamps(
        {f"{index % 4}-{index}.png": smooth(index % 4, 150 + index) for index in range(9)}
    )

    assert split_digest(without_copies(found)) == split_digest(without_copies(found[::-1]))


def test_photographs_come_from_debian_and_npm_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = deb({STAMPS + "dog.png": picture(0), "x/y.rcc": resource_file({"e.png": picture(1)})})
    npm = io.BytesIO()
    with tarfile.open(fileobj=npm, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/img/f.png")
        entry.size = len(picture(2))
        archive.addfile(entry, io.BytesIO(picture(2)))
    content = npm.getvalue()
    (tmp_path / "thing_1%3a2_all.deb").write_bytes(package)
    (tmp_path / "scope-thing-3.tgz").write_bytes(content)
    every = re.compile(r"\.png$")
    monkeypatch.setattr(
        "tidegate.models.demo.photographs.SOURCES",
        (
            Source(Package("thing", "1:2", hashlib.sha256(package).hexdigest()), "MIT", every),
            Source(
                Archive(
                    "@scope/thing",
                    "3",
                    "scope-thing-3.tgz",
                    hashlib.sha256(content).hexdigest(),
                    "1 MB",
                    ("npm",),
                ),
                "MIT",
                every,
            ),
        ),
    )

    found = photographs(tmp_path)

    assert {(item.source, item.name) for item in found} == {
        ("thing", STAMPS + "dog.png"),
        ("thing", "d/e.png"),
        ("@scope/thing", "package/img/f.png"),
    }


def invented(source: str, count: int) -> list[Photograph]:
    digests = (hashlib.sha256(f"{source}{index}".encode()).hexdigest() for index in range(count))
    pixels = Pixels(np.zeros((1, 1, 3), np.uint8))
    return [Photograph(source, "", pixels, digest) for digest in digests]


def test_every_part_has_the_same_share_of_each_source() -> None:
    parts = split(invented("a", 100) + invented("b", 20))

    for name, share in SPLITS.items():
        of_source = Counter(item.source for item in parts[name])
        assert of_source == {"a": round(share * 100), "b": round(share * 20)}


def test_splits_are_disjoint_and_leave_nothing_out() -> None:
    every = invented("a", 23) + invented("b", 7)

    parts = split(every)

    together = [item.digest for items in parts.values() for item in items]
    assert sorted(together) == sorted(item.digest for item in every)


def test_labels_are_of_classes_and_of_chosen_paths() -> None:
    sources = {source.name: source for source in SOURCES}

    for (name, path), class_id in class_ids_by_photograph().items():
        names = [path + ending for ending in (".png", ".jpg", ".webp")]
        assert any(sources[name].chosen.search(item) for item in names), path
        assert not any(sources[name].left_out.search(item) for item in names), path
        assert class_id < len(LABELS_FILE.read_text("utf-8").splitlines())


def test_a_missing_wheel_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"nowhere\.whl"):
        source.find_wheel(tmp_path / "nowhere.whl")


def test_another_wheel_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"PK")

    with pytest.raises(BuildRefused, match="not the pinned"):
        source.find_wheel(tmp_path / "x.whl")


def test_the_copy_in_downloads_is_used(wheel: source.Wheel) -> None:
    assert source.find_wheel(None, wheel.path.parent).path == wheel.path
