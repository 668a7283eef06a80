"""A bundle opens only if every byte equals the sealed one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.contract.tiny_graph import FEATURES
from tests.unit.bundle.tiny_bundle import (
    FOLD,
    Files,
    folds,
    npz,
    put,
    put_unchecked,
    sha256,
    sound_files,
)
from tests.unit.damaged import damaged
from tidegate.service.bundle import store
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.bundle.store import (
    CALIBRATION,
    CARD,
    GOLDEN,
    LABELS,
    MANIFEST,
    MAX_SIGNATURE_BYTES,
    MODEL,
    REQUIRED,
    SIGNATURE,
    open_bundle,
    read_embedding,
)
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.errors import BundleRefused
from tidegate.service.npz import read_npz

ALL_FILES = (MANIFEST, *sound_files())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return put(tmp_path / "tiny" / "1", sound_files())


def resealed(folder: Path, name: str, content: bytes) -> Path:
    """Seal a bundle with one other file in it, so that only its meaning is wrong."""
    return put(folder / "resealed", {**sound_files(), name: content})


def test_a_sound_bundle_opens(bundle: Path) -> None:
    opened = open_bundle(bundle)

    assert opened.labels == ("cat", "dog", "cat", "tree frog")
    assert opened.model_path.read_bytes() == sound_files()[MODEL]
    assert opened.digest == opened.manifest.digest
    assert opened.digest == Manifest.from_file((bundle / MANIFEST).read_bytes()).digest
    assert opened.gate.calibration_size == FOLD
    assert (opened.gate.alpha_reject, opened.gate.alpha_review) == (0.01, 0.05)
    assert np.array_equal(opened.gate.fold_b.combined, folds()["combined_b"])


def test_a_bundle_may_be_reached_through_a_link(bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle)

    assert open_bundle(link).digest == open_bundle(bundle).digest


@pytest.mark.parametrize("name", ALL_FILES)
def test_any_flipped_byte_is_noticed(bundle: Path, name: str) -> None:
    content = (bundle / name).read_bytes()
    rng = np.random.default_rng(0)
    sampled = rng.choice(len(content), min(len(content), 25), replace=False).tolist()

    for at in sorted({0, len(content) - 1, *sampled}):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        (bundle / name).write_bytes(damaged)

        with pytest.raises(BundleRefused, match=re.escape(name)):
            open_bundle(bundle)

    (bundle / name).write_bytes(content)
    open_bundle(bundle)


@pytest.mark.parametrize("name", ALL_FILES)
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c + b"\n", lambda c: b""])
def test_another_length_is_noticed(
    bundle: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))

    with pytest.raises(BundleRefused, match=re.escape(name)):
        open_bundle(bundle)


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()

    with pytest.raises(BundleRefused, match=rf"{re.escape(name)} (is missing|cannot be read)"):
        open_bundle(bundle)


def test_a_signature_is_the_only_file_that_need_not_be_listed(bundle: Path) -> None:
    digest = open_bundle(bundle).digest

    (bundle / SIGNATURE).write_bytes(b"anything: only a check of the signature reads it")

    assert open_bundle(bundle).digest == digest


def test_a_signature_that_is_no_small_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    with (bundle / SIGNATURE).open("wb") as file:
        file.truncate(MAX_SIGNATURE_BYTES + 1)
    with pytest.raises(BundleRefused, match=r"model\.sig is larger than 4,194,304 bytes"):
        open_bundle(bundle)
    (bundle / SIGNATURE).unlink()
    (bundle / SIGNATURE).mkdir()
    with pytest.raises(BundleRefused, match=r"model\.sig is not a regular file"):
        open_bundle(bundle)
    (bundle / SIGNATURE).rmdir()
    (bundle / SIGNATURE).symlink_to(bundle / LABELS)
    with pytest.raises(BundleRefused, match=r"model\.sig is (not a regular file|a link)"):
        open_bundle(bundle)


def test_a_manifest_must_not_list_a_signature(tmp_path: Path) -> None:
    path = put(tmp_path, {**sound_files(), SIGNATURE: b"{}"})

    with pytest.raises(BundleRefused, match=r"must not list model\.sig"):
        open_bundle(path)


@pytest.mark.parametrize(
    "name",
    [
        *("notes.txt", "golden/more.png", ".hidden", "model.onnx.data"),
        *("golden/model.sig", "model.sig.old", "other.sig"),
    ],
)
def test_a_file_that_is_not_listed_is_named(bundle: Path, name: str) -> None:
    (bundle / name).write_bytes(b"")

    with pytest.raises(BundleRefused, match=rf"{re.escape(name)} is not part of the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_manifest_that_does_not_list_a_required_file_is_rejected(
    tmp_path: Path, name: str
) -> None:
    files = {n: c for n, c in sound_files().items() if n != name}

    if name == MODEL:
        with pytest.raises(ValueError, match="another model"):
            put(tmp_path, files)
        return
    with pytest.raises(BundleRefused, match=f"does not list {re.escape(name)}"):
        open_bundle(put(tmp_path, files))


class TestLinks:
    """A link inside a bundle points to content outside it, so it is rejected."""

    def test_a_file_that_is_a_link_is_rejected(self, bundle: Path, tmp_path: Path) -> None:
        shutil.move(bundle / LABELS, tmp_path / "labels")
        (bundle / LABELS).symlink_to(tmp_path / "labels")

        with pytest.raises(BundleRefused, match=r"labels\.txt is a link"):
            open_bundle(bundle)

    def test_a_folder_that_is_a_link_is_rejected(self, bundle: Path, tmp_path: Path) -> None:
        shutil.move(bundle / "golden", tmp_path / "golden")
        (bundle / "golden").symlink_to(tmp_path / "golden")

        with pytest.raises(BundleRefused, match="golden"):
            open_bundle(bundle)

    def test_one_more_folder_that_is_a_link_is_rejected(self, bundle: Path, tmp_path: Path) -> None:
        (bundle / "extra").symlink_to(tmp_path)

        with pytest.raises(BundleRefused, match="extra is a link"):
            open_bundle(bundle)

    def test_a_link_to_nowhere_is_rejected(self, bundle: Path) -> None:
        (bundle / "extra").symlink_to("nowhere")

        with pytest.raises(BundleRefused, match="extra"):
            open_bundle(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_instead_of_a_file_is_rejected_without_blocking(bundle: Path) -> None:
    (bundle / CARD).unlink()
    os.mkfifo(bundle / CARD)

    with pytest.raises(BundleRefused, match=re.escape(CARD)):
        open_bundle(bundle)


def test_a_missing_folder_and_a_missing_manifest_have_different_errors(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="no bundle folder"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleRefused, match=r"manifest\.json cannot be read"):
        open_bundle(tmp_path)


LABELS_REFUSED = {
    "too few": b"cat\ndog\ncat\n",
    "too many": b"cat\ndog\ncat\nfrog\nnewt\n",
    "an empty line at the end": b"cat\ndog\ncat\nfrog\n\n",
    "none": b"",
    "not UTF-8": b"cat\ndog\n\xff\nfrog\n",
}


@pytest.mark.parametrize("content", LABELS_REFUSED.values(), ids=list(LABELS_REFUSED))
def test_labels_that_are_not_one_line_per_class_are_rejected(
    tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(BundleRefused, match=re.escape(LABELS)):
        open_bundle(resealed(tmp_path, LABELS, content))


def fold_with(name: str, index: int | tuple[int, int], value: float) -> bytes:
    arrays = folds()
    arrays[name][index] = value
    return npz(**arrays)


CALIBRATION_REFUSED = {
    "unsorted": fold_with("scores_a", (0, 5), 99.0),
    "nan": fold_with("scores_a", (1, FOLD - 1), np.nan),
    "infinite": fold_with("combined_b", 0, -np.inf),
    "one too few": npz(**{**folds(), "scores_a": folds()["scores_a"][:, 1:]}),
    "one score too few": npz(**{**folds(), "scores_a": folds()["scores_a"][1:]}),
    "of float32": npz(**{**folds(), "scores_a": folds()["scores_a"].astype(np.float32)}),
    "in two dimensions": npz(**{**folds(), "combined_b": folds()["combined_b"][None]}),
    "without a fold": npz(**{n: f for n, f in folds().items() if n != "combined_b"}),
    "of objects": npz(**{**folds(), "scores_a": np.array([[None] * FOLD] * 2)}),
    "no archive": b"not an archive",
    "empty": b"",
}


@pytest.mark.parametrize("content", CALIBRATION_REFUSED.values(), ids=list(CALIBRATION_REFUSED))
def test_unsorted_or_invalid_calibration_is_rejected(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BundleRefused, match=re.escape(CALIBRATION)):
        open_bundle(resealed(tmp_path, CALIBRATION, content))


def embedded(mean: NDArray[np.generic], axes: NDArray[np.generic]) -> bytes:
    return npz(**folds(), embedding_mean=mean, embedding_axes=axes)


def test_the_embedding_of_the_reference_is_read_if_there_is_one(tmp_path: Path) -> None:
    mean, axes = np.zeros(FEATURES), np.ones((FEATURES, 2))
    sealed = resealed(tmp_path, CALIBRATION, embedded(mean, axes))

    found = read_embedding(open_bundle(sealed))

    assert np.array_equal(found["mean"], mean)
    assert np.array_equal(found["axes"], axes)
    assert read_embedding(open_bundle(put(tmp_path / "without", sound_files()))) == {}


@pytest.mark.parametrize(
    ("mean", "axes"),
    [
        (np.zeros(FEATURES + 1), np.ones((FEATURES, 2))),
        (np.zeros(FEATURES), np.ones((FEATURES, 0))),
        (np.zeros(FEATURES), np.ones(FEATURES)),
        (np.zeros(FEATURES, np.float32), np.ones((FEATURES, 2))),
        (np.full(FEATURES, np.nan), np.ones((FEATURES, 2))),
        (np.zeros(FEATURES), None),
    ],
    ids=["width", "no axis", "one dimension", "float32", "nan", "no axes"],
)
def test_an_invalid_embedding_is_rejected(
    tmp_path: Path, mean: NDArray[np.generic], axes: NDArray[np.generic] | None
) -> None:
    sealed = embedded(mean, axes) if axes is not None else npz(**folds(), embedding_mean=mean)
    bundle = open_bundle(resealed(tmp_path, CALIBRATION, sealed))

    with pytest.raises(BundleRefused, match="embedding"):
        read_embedding(bundle)


def test_the_archive_of_calibration_is_read_once_for_the_gate_and_once_for_the_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sound_files() | {CALIBRATION: npz(**with_own_fold())}
    folder = put(tmp_path, files, own_fold)
    read: list[bytes] = []

    def counted(content: bytes, fields: Iterable[str] | None) -> dict[str, NDArray[Any]]:
        read.append(content)
        return read_npz(content, fields)

    monkeypatch.setattr(store, "read_npz", counted)
    bundle = open_bundle(folder)
    assert len(read) == 1

    assert read_embedding(bundle) == {}
    assert len(read) == 2


def test_a_gate_that_could_never_reject_is_rejected(tmp_path: Path) -> None:
    """Its classes share a fold of 49 images."""
    arrays = folds()
    cut = [np.sort(arrays["combined_b"][rows]) for rows in (slice(0, 49), slice(49, None))]
    sizes = {"combined_b": np.concatenate(cut), "fold_b_sizes": np.array([49, 150])}
    files = sound_files() | {CALIBRATION: npz(**arrays | sizes)}

    with pytest.raises(BundleRefused, match=r"p-value .* 0\.02, above alpha_reject 0\.01"):
        open_bundle(put(tmp_path, files, own_fold))


def test_a_bundle_of_an_older_format_is_rejected_with_advice(tmp_path: Path) -> None:
    folder = put(tmp_path, sound_files())
    manifest = folder / MANIFEST
    manifest.write_bytes(manifest.read_bytes().replace(b"tidegate-bundle/3", b"tidegate-bundle/2"))

    with pytest.raises(BundleRefused, match=r"'tidegate-bundle/2'.* Make the bundle again with"):
        open_bundle(folder)


def with_own_fold(**changes: Any) -> dict[str, Any]:
    """Fold B cut into 99 shared scores and 100 of class 2."""
    arrays = folds()
    halves = [
        np.sort(arrays["combined_b"][rows]) for rows in (slice(1, None, 2), slice(0, None, 2))
    ]
    return {
        **arrays,
        "combined_b": np.concatenate(halves),
        "fold_b_sizes": np.array([99, 100]),
        **changes,
    }


def own_fold(fields: dict[str, Any]) -> None:
    fields["gate"]["own_threshold"] = [2]


def test_the_gate_uses_a_class_s_own_fold(tmp_path: Path) -> None:
    files = sound_files() | {CALIBRATION: npz(**with_own_fold())}

    gate = open_bundle(put(tmp_path, files, own_fold)).gate

    assert gate.calibration_size == FOLD
    assert gate.judge([0.0, 0.0], 2).calibration_size == 100
    assert gate.judge([0.0, 0.0], 1).calibration_size == 99


OWN_FOLDS_REFUSED = {
    "no sizes": npz(**folds()),
    "sizes of too few": npz(**with_own_fold(fold_b_sizes=np.array([99, 99]))),
    "sizes of one fold": npz(**with_own_fold(fold_b_sizes=np.array([199]))),
    "a negative size": npz(**with_own_fold(fold_b_sizes=np.array([-1, 200]))),
    "no numbers": npz(**with_own_fold(fold_b_sizes=np.array(["99", "100"]))),
    "unsorted across the cut": npz(**with_own_fold(fold_b_sizes=np.array([100, 99]))),
}


@pytest.mark.parametrize("content", OWN_FOLDS_REFUSED.values(), ids=list(OWN_FOLDS_REFUSED))
def test_own_folds_whose_sizes_do_not_sum_to_fold_b_are_rejected(
    tmp_path: Path, content: bytes
) -> None:
    files = sound_files() | {CALIBRATION: content}

    with pytest.raises(BundleRefused, match=re.escape(CALIBRATION)):
        open_bundle(put(tmp_path, files, own_fold))


def pac(fields: dict[str, Any]) -> None:
    fields["gate"].update(guarantee="pac", guarantee_delta=0.5, alpha_reject=0.02)


def test_a_pac_gate_uses_the_sealed_table_of_p_values(tmp_path: Path) -> None:
    table = np.linspace(0.015, 1, FOLD + 1)
    files = sound_files() | {CALIBRATION: npz(**folds(), p_by_rank_b=table)}

    gate = open_bundle(put(tmp_path, files, pac)).gate

    assert gate.judge([-99.0, -99.0], 0).p_value == 1.0
    assert gate.judge([99.0, 99.0], 0).p_value in table[:3]


@pytest.mark.parametrize(
    "table",
    [None, np.linspace(0.01, 1, FOLD), np.linspace(0, 1, FOLD + 1), np.full(FOLD + 1, np.nan)],
    ids=["missing", "too short", "with a zero", "nan"],
)
def test_an_invalid_pac_table_is_rejected(
    tmp_path: Path, table: NDArray[np.float64] | None
) -> None:
    arrays = folds() if table is None else {**folds(), "p_by_rank_b": table}

    with pytest.raises(BundleRefused, match="p_by_rank_b"):
        open_bundle(put(tmp_path, sound_files() | {CALIBRATION: npz(**arrays)}, pac))


REFUSED_MANIFESTS = {
    "an alpha that n cannot support": (
        lambda f: f["gate"].update(alpha_reject=0.004),
        r"manifest\.json is invalid: gate: .*alpha_reject 0\.004 needs at least 249",
    ),
    "a gate for another model": (
        lambda f: f["gate"].update(calibrated_for_model="1" * 64),
        r"manifest\.json is invalid: .*calibrated for another model",
    ),
    "a gate for another preprocessing": (
        lambda f: f["preprocess"].update(alpha="composite-white"),
        r"manifest\.json is invalid: .*calibrated for another preprocessing",
    ),
    "an unknown field": (
        lambda f: f["gate"].update(threshold=1),
        r"manifest\.json is invalid: gate\.threshold: Extra",
    ),
}


@pytest.mark.parametrize("name", REFUSED_MANIFESTS)
@pytest.mark.filterwarnings("ignore:Pydantic serializer:UserWarning")
def test_an_inconsistent_manifest_is_rejected_with_the_reason(tmp_path: Path, name: str) -> None:
    change, reason = REFUSED_MANIFESTS[name]

    with pytest.raises(BundleRefused, match=reason):
        open_bundle(put_unchecked(tmp_path, sound_files(), change))


@pytest.mark.parametrize("change", [lambda c: c.replace(b"\n ", b"\n  "), lambda c: c + b" "])
def test_a_manifest_in_another_form_is_rejected(
    bundle: Path, change: Callable[[bytes], bytes]
) -> None:
    (bundle / MANIFEST).write_bytes(change((bundle / MANIFEST).read_bytes()))

    with pytest.raises(BundleRefused, match=r"manifest\.json has changed since it was sealed"):
        open_bundle(bundle)


def test_two_bundles_differ_in_digest_when_one_byte_of_one_file_does(tmp_path: Path) -> None:
    files: Files = sound_files()

    first = open_bundle(put(tmp_path / "first", files))
    second = open_bundle(put(tmp_path / "second", {**files, CARD: files[CARD] + b"."}))

    assert first.digest != second.digest
    assert sha256(files[CARD]) == first.manifest.files[CARD].sha256


def test_the_golden_file_is_one_of_those_required() -> None:
    assert {MODEL, LABELS, CALIBRATION, GOLDEN, CARD} == set(REQUIRED)


@pytest.mark.lengthy
@pytest.mark.parametrize("name", [CALIBRATION, GOLDEN, LABELS])
def test_sealed_damage_is_rejected_or_harmless(tmp_path: Path, name: str) -> None:
    """For any content of a file, a bundle is opened and verified, or it raises BundleRefused."""
    engine = OnnxEngine(put(tmp_path / "sound", sound_files()) / MODEL)
    refused = 0
    for content in damaged(sound_files()[name], 300):
        folder = put(tmp_path / "damaged", {**sound_files(), name: content})
        try:
            check_golden(open_bundle(folder), lambda images: engine.run(0, images))
        except BundleRefused:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"classes": ' + b"9" * 5000 + b"}",
        b'{"format": 1e999}',
        b"\xff\xfe",
        b"",
        b"null",
    ],
    ids=["lists", "objects", "a huge number", "infinity", "no text", "empty", "null"],
)
def test_an_unparsable_manifest_is_rejected(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)

    with pytest.raises(BundleRefused, match=r"manifest\.json"):
        open_bundle(bundle)
