"""Every image of a source is an item, and what cannot be read is named or a row of its own."""

from __future__ import annotations

import io
import os
import random
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tidegate.service.distribution import object_store
from tidegate.service.distribution.uri import Address
from tidegate.service.errors import SourceUnreadable
from tidegate.service.offline import sources
from tidegate.service.offline.answers import Problem
from tidegate.service.offline.read_ahead import entries
from tidegate.service.offline.sources import count, items


def names(*given: object, listing: Path | None = None) -> list[str]:
    listed = None if listing is None else str(listing)
    found = items([str(source) for source in given], listed, "image")
    return [item.name for item in found]


def contents(*given: object) -> list[Any]:
    found = items([str(source) for source in given], None, "image")
    return [content for *_, content in entries(enumerate(found), 100)]


def tar_of(path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # of a variable mode
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(name[:1].encode()))
    return path


def test_a_damaged_header_does_not_end_an_archive(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "x.tar").read_bytes()
    second = whole.index(b"b.jpg")
    (tmp_path / "x.tar").write_bytes(whole[:second] + b"#" + whole[second + 1 :])

    with pytest.raises(SourceUnreadable, match=r"x\.tar cannot be read: .* at byte 1,024"):
        names(tmp_path / "x.tar")


@pytest.mark.parametrize("cut", [1024 + 100, 1024 + 512, 1024 + 700])
def test_an_archive_that_ends_too_early_is_named(tmp_path: Path, cut: int) -> None:
    whole = tar_of(tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:cut])

    with pytest.raises(SourceUnreadable, match=r"x\.tar cannot be read"):
        names(tmp_path / "x.tar")


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_damaged_compression_is_named(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"x.tar.{packing}"
    with tarfile.open(path, f"w:{packing}") as archive:  # type: ignore[call-overload]
        text = random.Random(0).randbytes(1 << 17).hex().encode()  # noqa: S311  # of a test
        member = tarfile.TarInfo("a.jpg")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
        archive.addfile(tarfile.TarInfo("b.jpg"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content)

    with pytest.raises(SourceUnreadable, match="cannot be read"):
        names(path)


def test_a_link_to_another_file_of_an_archive_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"one")
    os.link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "a.jpg", "a.jpg")
        archive.add(tmp_path / "b.jpg", "b.jpg")
        lost = tarfile.TarInfo("c.jpg")
        lost.type, lost.linkname = tarfile.LNKTYPE, "gone.jpg"
        archive.addfile(lost)

    *both, third = contents(tmp_path / "x.tar")

    assert both == [b"one", b"one"]
    assert isinstance(third, Problem)
    assert "gone.jpg" in third.detail


def test_members_with_the_same_name_are_two_images(tmp_path: Path) -> None:
    tar, zipped = tmp_path / "x.tar", tmp_path / "x.zip"
    for content in (b"1", b"2"):
        with tarfile.open(tar, "a") as archive:
            member = tarfile.TarInfo("../a.jpg")
            member.size = 1
            archive.addfile(member, io.BytesIO(content))
        with zipfile.ZipFile(zipped, "a") as other, warnings.catch_warnings(action="ignore"):
            other.writestr("../a.jpg", content)

    assert contents(tar, zipped) == [b"1", b"2"] * 2


def test_a_member_that_ends_too_early_says_why(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpg", b"x")
    content = path.read_bytes()
    sizes = content.index(b"PK\x01\x02") + 20  # in the directory: compressed, and as it was
    path.write_bytes(content[:sizes] + struct.pack("<2I", 10_000, 10_000) + content[sizes + 8 :])

    [found] = contents(path)

    assert isinstance(found, Problem)
    assert found.detail.strip(".")


def test_a_name_that_is_no_text_does_not_end_the_job(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ä.jpg", b"x")
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))

    with pytest.raises(SourceUnreadable, match=r"x\.zip cannot be read"):
        names(path)


def test_a_list_may_name_images_that_are_gone_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    odd = os.fsdecode(b"\xff.jpg")
    (tmp_path / odd).write_bytes(b"x")
    listing = tmp_path / "list.txt"
    lines = [tmp_path / odd, tmp_path / "gone.jpg", tmp_path / "a\rb.jpg"]
    listing.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(os.fsencode(line) for line in lines))

    assert names(listing=listing) == [str(line) for line in lines]


@pytest.mark.parametrize("source", ["", "gone.txt", "x" * 5000])
def test_a_source_that_does_not_exist_is_named(source: str) -> None:
    with pytest.raises(SourceUnreadable, match=r"does not exist, or may not be read"):
        names(source)


def test_links_between_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")

    assert names(tmp_path) == [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]


def test_a_column_of_something_else_is_refused(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"image": ["a.jpg"]}), tmp_path / "x.parquet")

    with pytest.raises(SourceUnreadable, match="'image' has string, not bytes"):
        names(tmp_path / "x.parquet")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Address]:
    """A fake of a bucket: obstore on a folder. Returns the places that were opened."""
    store = pytest.importorskip("obstore.store")
    opened: list[Address] = []
    for name in ("b/2.jpg", "b/1@2x.PNG", "b/notes.txt", "b/deep/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())

    def open_folder(address: Address) -> Any:
        opened.append(address)
        return store.LocalStore(tmp_path / address.path)

    monkeypatch.setattr(object_store, "_open", open_folder)
    sources._place.cache_clear()
    return opened


def test_a_prefix_is_every_image_below_it_and_an_object_is_itself(
    bucket: list[Address], tmp_path: Path
) -> None:
    expected = ["s3://pets/b/1@2x.PNG", "s3://pets/b/2.jpg", "s3://pets/b/deep/3.jpg"]
    listing = tmp_path / "list.txt"
    listing.write_text("s3://pets/b/2.jpg\ns3://pets/b/1@2x.PNG\n")

    assert names("s3://pets/b/") == expected
    assert contents("s3://pets/b") == [b"b/1@2x.PNG", b"b/2.jpg", b"b/deep/3.jpg"]
    assert names(listing=listing) == ["s3://pets/b/2.jpg", "s3://pets/b/1@2x.PNG"]
    assert isinstance(contents("s3://pets/b/gone.jpg")[0], Problem)
    assert len(bucket) == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("oci://registry/images:1", "must be s3://"),
        ("ftp://host/a.jpg", "must be s3://"),
        ("https://user@host/a.jpg", "without a user"),
        ("https://host/a.jpg?token=1", r"with \? or #"),
        ("s3://pets/shard-000.tar", "copy it first"),
    ],
)
def test_an_address_that_gives_no_images_is_refused(source: str, reason: str) -> None:
    with pytest.raises(SourceUnreadable, match=reason):
        names(source)


def test_images_are_counted_in_advance(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"x")
    listing = tmp_path / "list.txt"
    listing.write_text(f"gone.jpg\n{tmp_path / 'images'}\n")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("b.jpg", b"x")
        archive.writestr("notes.txt", b"x")
    parquet.write_table(pyarrow.table({"image": [b"x"] * 5}), tmp_path / "x.parquet")
    tar_of(tmp_path / "x.tar")
    found = [str(tmp_path / f"x.{kind}") for kind in ("zip", "parquet", "tar")]

    assert count([*found, "s3://pets/a.jpg"], str(listing)) == (1 + 5 + 3 + 1 + 2, True)


def test_the_images_of_a_long_archive_are_estimated(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(800):
            member = tarfile.TarInfo(f"{number}.jpg" if number % 2 else f"{number}.json")
            member.size = 700
            archive.addfile(member, io.BytesIO(bytes(700)))

    found = count([str(path)], None)

    assert found is not None
    assert not found.is_exact
    assert found.images == pytest.approx(400, rel=0.02)


def test_a_list_in_a_pipe_is_left_for_those_who_read_it() -> None:
    out, into = os.pipe()
    os.write(into, b"a.jpg\n")
    os.close(into)

    assert count([], f"/dev/fd/{out}") is None
    assert names(listing=Path(f"/dev/fd/{out}")) == ["a.jpg"]
    os.close(out)


@pytest.mark.parametrize(
    ("source", "listing"),
    [("x.tar.gz", None), ("s3://pets/b", None), ("gone.zip", None), ("gone", None), ("a.jpg", "-")],
)
def test_what_cannot_be_counted_in_advance_has_no_number(source: str, listing: str | None) -> None:
    assert count([source], listing) is None
