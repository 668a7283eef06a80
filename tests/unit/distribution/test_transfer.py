"""A bundle appears complete and verified, or not at all; pushing to a folder is the same."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.server import ROOT
from tests.unit.bundle.signing_keys import private_key, public_key
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service import cli
from tidegate.service.bundle import signature
from tidegate.service.bundle.signature import open_trusted, sign
from tidegate.service.bundle.store import (
    CARD,
    LABELS,
    MANIFEST,
    MODEL,
    SIGNATURE,
    open_bundle,
)
from tidegate.service.distribution import staging, transfer
from tidegate.service.distribution.folder import Folder
from tidegate.service.distribution.place import Interrupted
from tidegate.service.distribution.transfer import pull, push
from tidegate.service.distribution.uri import parse
from tidegate.service.errors import BundleRefused, KeyUnusable, TransferFailed
from tidegate.service.files import write_atomically

Reported = list[tuple[str, int, int]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return put(tmp_path / "source", sound_files())


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    return tmp_path / "bundles"


def quiet(phase: str, done: int, total: int) -> None:
    del phase, done, total


def pulled(source: Path, bundles: Path, digest: str = "", keys: Path | None = None) -> Path:
    address = parse(f"{source}@sha256:{digest}" if digest else f"{source}")
    return pull(address, bundles, keys, quiet).path


def left(folder: Path) -> set[str]:
    """Return the names of the hidden folders in which bundles are collected."""
    return {path.name for path in folder.rglob(f"{staging.PREFIX}*")}


def collected(bundles: Path, digest: str) -> Path:
    """Create the folder in which the bundle `tiny` with this digest is collected."""
    folder = bundles / "tiny" / f"{staging.PREFIX}{digest[:32]}"
    (folder / "bundle").mkdir(parents=True)
    (folder / "partial").mkdir()
    return folder


def test_a_pulled_bundle_is_at_its_name_and_version(source: Path, bundles: Path) -> None:
    digest = open_bundle(source).digest

    path = pulled(source, bundles, digest)

    assert path == bundles / "tiny" / "1"
    assert open_bundle(path).digest == digest
    assert left(bundles) == set()


def test_another_digest_is_refused_before_any_file(source: Path, bundles: Path) -> None:
    with pytest.raises(BundleRefused, match=f"its digest is {open_bundle(source).digest}, not 00"):
        pulled(source, bundles, "0" * 64)

    assert not bundles.exists()


def test_a_second_pull_keeps_the_bundle(source: Path, bundles: Path) -> None:
    inode = (pulled(source, bundles) / MODEL).stat().st_ino

    assert (pulled(source, bundles) / MODEL).stat().st_ino == inode
    assert left(bundles) == set()


def test_another_bundle_is_never_replaced(tmp_path: Path, source: Path, bundles: Path) -> None:
    digest = open_bundle(pulled(source, bundles)).digest
    other = put(tmp_path / "other", {**sound_files(), CARD: b"another card"})

    with pytest.raises(TransferFailed, match=f"has another bundle, digest {digest}"):
        pulled(other, bundles)
    with pytest.raises(TransferFailed, match="A bundle is never replaced"):
        push(open_bundle(other), parse(f"{bundles}/tiny/1"), quiet)

    assert open_bundle(bundles / "tiny" / "1").digest == digest
    assert left(bundles) == set()


def test_a_damaged_bundle_at_the_place_is_named(source: Path, bundles: Path) -> None:
    (pulled(source, bundles) / LABELS).write_text("damaged", "utf-8")

    with pytest.raises(TransferFailed, match=r"labels\.txt has changed.*remove it, and try again"):
        pulled(source, bundles)


def test_a_pull_continues_with_what_is_complete(source: Path, bundles: Path) -> None:
    digest = open_bundle(source).digest
    folder = collected(bundles, digest)
    shutil.copy(source / MODEL, folder / "bundle" / MODEL)
    (source / MODEL).rename(source / "moved")  # so it can only come from what was collected

    assert open_bundle(pulled(source, bundles, digest)).digest == digest


def test_a_collected_file_that_is_damaged_is_pulled_again(source: Path, bundles: Path) -> None:
    digest = open_bundle(source).digest
    folder = collected(bundles, digest)
    (folder / "bundle" / MODEL).write_bytes(b"\0" * (source / MODEL).stat().st_size)

    assert open_bundle(pulled(source, bundles, digest)).digest == digest


def test_a_partial_file_is_continued(
    source: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = open_bundle(source).manifest
    half = manifest.files[MODEL].bytes // 2
    folder = collected(bundles, manifest.digest)
    content = (source / MODEL).read_bytes()
    (folder / "partial" / manifest.files[MODEL].sha256).write_bytes(content[:half])
    starts = {}
    read = Folder.read

    def spy(self: Folder, name: str, start: int = 0) -> Iterator[bytes]:
        starts[name] = start
        return read(self, name, start)

    monkeypatch.setattr(Folder, "read", spy)

    assert (pulled(source, bundles) / MODEL).read_bytes() == content
    assert starts[MODEL] == half
    assert starts[LABELS] == 0


def test_a_changed_file_is_refused_and_not_kept(source: Path, bundles: Path) -> None:
    content = (source / LABELS).read_bytes()
    (source / LABELS).write_bytes(content.swapcase())

    with pytest.raises(BundleRefused, match=r"labels\.txt is not the file in the manifest"):
        pulled(source, bundles)
    assert not (bundles / "tiny" / "1").exists()
    (source / LABELS).write_bytes(content)
    pulled(source, bundles)


def test_no_more_than_the_size_in_the_manifest_is_written(source: Path, bundles: Path) -> None:
    with (source / MODEL).open("ab") as file:
        file.truncate(1 << 30)

    with pytest.raises(BundleRefused, match=r"model\.onnx is larger than the [\d,]+ bytes"):
        pulled(source, bundles)
    written = sum(path.stat().st_size for path in bundles.rglob("*") if path.is_file())
    assert written < 1 << 20


def test_a_short_file_is_an_error_that_ends(source: Path, bundles: Path) -> None:
    (source / MODEL).write_bytes((source / MODEL).read_bytes()[:-1])

    with pytest.raises(Interrupted, match=r"model\.onnx is shorter than in the manifest"):
        pulled(source, bundles)


@pytest.mark.parametrize("name", [LABELS, "golden/expected.npz"])
def test_a_missing_file_is_named(source: Path, bundles: Path, name: str) -> None:
    (source / name).unlink()

    with pytest.raises(TransferFailed, match=f"there is no {name}"):
        pulled(source, bundles)


def test_a_place_without_a_bundle_is_named(tmp_path: Path, bundles: Path) -> None:
    with pytest.raises(TransferFailed, match=r"no manifest\.json. Is this the address of a bundle"):
        pulled(tmp_path, bundles)


def test_only_files_of_the_manifest_are_copied(source: Path, bundles: Path) -> None:
    (source / "notes.txt").write_text("mine", "utf-8")

    assert not (pulled(source, bundles) / "notes.txt").exists()


def test_progress_ends_with_all_bytes_once(source: Path, bundles: Path) -> None:
    reported: Reported = []
    total = sum(file.bytes for file in open_bundle(source).manifest.files.values())

    pull(parse(f"{source}"), bundles, None, lambda *values: reported.append(values))

    assert [done for _, done, _ in reported] == sorted({done for _, done, _ in reported})
    assert reported[-1] == ("pulling tiny 1", total, total)


def test_a_disk_without_space_is_named_before_any_file(
    source: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    with pytest.raises(TransferFailed, match=r"no space: .* bytes more, and 10 are free"):
        pulled(source, bundles)


@pytest.fixture
def small_files(source: Path) -> Iterator[None]:
    """Let the kernel refuse to write more than 100 bytes of a file, as a full disk would."""
    assert source.exists()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_fills_up_keeps_what_was_transferred(source: Path, bundles: Path) -> None:
    with pytest.raises(TransferFailed, match="what was transferred is kept"):
        pulled(source, bundles)

    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert left(bundles)
    assert open_bundle(pulled(source, bundles)).digest == open_bundle(source).digest


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, source: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(TransferFailed, match="cannot be written: Not a directory"):
        pulled(source, tmp_path / "file")


def test_a_pushed_folder_is_the_bundle_with_its_signature(tmp_path: Path, source: Path) -> None:
    sign(open_bundle(source), private_key(tmp_path / "k.pem"))

    push(open_bundle(source), parse(f"{tmp_path}/share/tiny-1"), quiet)

    copy = tmp_path / "share" / "tiny-1"
    assert open_bundle(copy).digest == open_bundle(source).digest
    assert (copy / SIGNATURE).read_bytes() == (source / SIGNATURE).read_bytes()


def test_a_push_with_another_digest_is_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(TransferFailed, match="as in the address"):
        push(open_bundle(source), parse(f"{tmp_path}/share@sha256:{'0' * 64}"), quiet)


def test_keys_are_checked_before_any_file_is_pulled(
    tmp_path: Path, source: Path, bundles: Path
) -> None:
    key = private_key(tmp_path / "k.pem")
    keys = public_key(tmp_path / "trusted" / "ours.pem", key).parent

    with pytest.raises(BundleRefused, match="is not signed, and TIDEGATE_TRUSTED_KEYS"):
        pulled(source, bundles, keys=keys)
    with pytest.raises(KeyUnusable, match="cannot be read"):
        pulled(source, bundles, keys=tmp_path / "nowhere")
    assert not bundles.exists()
    sign(open_bundle(source), key)
    assert open_trusted(pulled(source, bundles, keys=keys), keys).manifest.name == "tiny"


def test_a_later_signature_is_added_to_the_same_bundle(
    tmp_path: Path, source: Path, bundles: Path
) -> None:
    key = private_key(tmp_path / "k.pem")
    keys = public_key(tmp_path / "trusted" / "ours.pem", key).parent
    pulled(source, bundles)
    sign(open_bundle(source), key)

    assert open_trusted(pulled(source, bundles), keys).digest == open_bundle(source).digest


def test_a_signature_that_nobody_checked_does_not_replace_another(
    tmp_path: Path, source: Path, bundles: Path
) -> None:
    key = private_key(tmp_path / "k.pem")
    keys = public_key(tmp_path / "trusted" / "ours.pem", key).parent
    sign(open_bundle(source), key)
    pulled(source, bundles, keys=keys)
    (source / SIGNATURE).write_bytes(b"anything")

    path = pulled(source, bundles)

    assert open_trusted(path, keys).digest == open_bundle(source).digest


def test_an_unsigned_push_does_not_remove_a_signature(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsigned = put(tmp_path / "unsigned", sound_files())
    sign(open_bundle(source), private_key(tmp_path / "k.pem"))
    monkeypatch.setattr(transfer, "open_remote", lambda address: Folder(source))

    with pytest.raises(TransferFailed, match="with a signature"):
        push(open_bundle(unsigned), parse("oci://registry/tiny:1"), quiet)


def test_a_bundle_in_a_mounted_folder_is_signed(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_another_disk(path: Path, content: bytes, temporary_folder: Path | None = None) -> None:
        if temporary_folder is not None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        write_atomically(path, content)

    monkeypatch.setattr(signature, "write_atomically", on_another_disk)
    key = private_key(tmp_path / "k.pem")
    keys = public_key(tmp_path / "trusted" / "ours.pem", key).parent

    sign(open_bundle(source), key)

    assert open_trusted(source, keys).manifest.name == "tiny"


@pytest.mark.parametrize(
    ("uri", "extra"), [("s3://bucket/a", "remote"), ("oci://registry/a:1", "oci")]
)
def test_a_missing_library_is_named_with_its_extra(
    bundles: Path, uri: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(TransferFailed, match=rf"pip install 'tidegate\[{extra}\]'"):
        pull(parse(uri), bundles, None, quiet)


def test_the_command_refuses_a_uri_without_a_digest(
    source: Path, bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = open_bundle(source).digest

    assert cli.main(["bundle", "pull", f"{source}", f"{bundles}"]) == 1
    assert "accept any bundle with --any-digest" in capsys.readouterr().err
    assert cli.main(["bundle", "pull", f"{source}", f"{bundles}", "--any-digest"]) == 0
    assert capsys.readouterr().out == f"{bundles}/tiny/1\ndigest {digest}\n"


def test_what_push_prints_is_what_pull_accepts(
    tmp_path: Path, source: Path, bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bundle", "push", f"{source}", f"{tmp_path}/share"]) == 0
    printed = capsys.readouterr().out.strip()

    assert cli.main(["bundle", "pull", printed, f"{bundles}"]) == 0


def test_the_commands_sign_and_verify(
    tmp_path: Path,
    source: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = private_key(tmp_path / "k.pem")
    monkeypatch.setenv(
        "TIDEGATE_TRUSTED_KEYS", f"{public_key(tmp_path / 'trusted' / 'ours.pem', key).parent}"
    )

    assert cli.main(["bundle", "verify", f"{source}"]) == 1
    assert "is not signed" in capsys.readouterr().err
    assert cli.main(["bundle", "sign", f"{source}", "--key", f"{key}"]) == 0
    assert cli.main(["bundle", "verify", f"{source}"]) == 0
    assert "signature: valid, by the trusted key ours.pem" in capsys.readouterr().out


@pytest.mark.process
def test_a_pull_that_is_killed_leaves_nothing_or_the_bundle(tmp_path: Path, source: Path) -> None:
    """The process is killed before its first change to the disk, before the second, and so on."""
    sign(open_bundle(source), private_key(tmp_path / "k.pem"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.distribution.killed_pull", source, tmp_path / "out"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    states = json.loads(done.stdout)

    assert set(states) == {"none", "complete"}
    assert states == sorted(states, reverse=True)  # it appears once
    assert len(states) > 30
    assert states.count("complete") > 1


@pytest.mark.lengthy
def test_two_pulls_at_once_end_with_one_bundle(source: Path, bundles: Path) -> None:
    command = [sys.executable, "-m", "tidegate.service", "bundle", "pull", "--any-digest"]
    both = [
        subprocess.Popen([*command, source, bundles], stdout=subprocess.DEVNULL, cwd=ROOT)
        for _ in range(2)
    ]

    assert [process.wait() for process in both] == [0, 0]
    assert open_bundle(bundles / "tiny" / "1").digest == open_bundle(source).digest
    assert left(bundles) == set()


def test_the_manifest_is_the_last_file_of_a_collected_bundle(
    source: Path, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(manifest: object, signature: object, folder: Path, final: object) -> NoReturn:
        del manifest, signature, final
        names = {path.name for path in folder.rglob("*")}
        assert MODEL in names
        assert MANIFEST not in names
        raise Interrupted("before the manifest is written")

    monkeypatch.setattr(staging, "_reveal", stop)

    with pytest.raises(Interrupted, match="before the manifest"):
        pulled(source, bundles)
