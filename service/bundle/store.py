"""Open a bundle from its folder, and reject it if any file differs from the manifest."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tidegate.service.bundle.manifest import GateFit, Manifest, OtherFormat
from tidegate.service.errors import BundleRefused
from tidegate.service.files import sha256_of
from tidegate.service.npz import MOST_BYTES, NotAnArchive, read_npz
from tidegate.service.ood.conformal import TailedFold, marginal_p_values
from tidegate.service.ood.gates import FinalFold, Gate

MANIFEST = "manifest.json"
MODEL = "model.onnx"
LABELS = "labels.txt"
CALIBRATION = "calibration.npz"
GOLDEN = "golden/expected.npz"
CARD = "MODEL_CARD.md"
SIGNATURE = "model.sig"  # the only file that the manifest does not list; optional
REQUIRED = (MODEL, LABELS, CALIBRATION, GOLDEN, CARD)
_CHUNK = 1 << 20
MAX_TEXT_BYTES = 64 << 20  # of manifest.json or labels.txt
MAX_SIGNATURE_BYTES = 4 << 20  # about 250 bytes for each file of the bundle


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle: its manifest, its class labels and its gate."""

    path: Path
    manifest: Manifest
    digest: str
    labels: tuple[str, ...]
    gate: Gate

    @property
    def short_digest(self) -> str:
        """Return the digits of the digest that logs and the labels of metrics show."""
        return self.digest[:12]

    @property
    def model_path(self) -> Path:
        """Return the path of the sealed graph."""
        return self.path / MODEL


def open_bundle(path: Path) -> Bundle:
    """Open the bundle in folder `path`, and check every file against the manifest.

    Raises BundleRefused, with the file's name, if one is missing, changed or not listed.
    """
    manifest = read_manifest(path)
    check_files(path, manifest)
    return Bundle(
        path=path,
        manifest=manifest,
        digest=manifest.digest,
        labels=_read_labels(path, manifest),
        gate=_read_gate(path, manifest),
    )


def read_arrays(
    path: Path, name: str, fields: Iterable[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Return the arrays `fields`, or all, of the archive `name` in the bundle at `path`.

    Raises BundleRefused, with the archive's name, if it is invalid or lacks one of the arrays.
    """
    content = _read_small(path, name, MOST_BYTES)
    try:
        return read_npz(content, fields)
    except KeyError as error:
        raise BundleRefused(f"{path}: {name} lacks {error}.") from error
    except NotAnArchive as error:
        raise BundleRefused(f"{path}: {name} is not an npz archive: {error}.") from error


def read_embedding(bundle: Bundle) -> dict[str, NDArray[np.float64]]:
    """Return `mean` [D] and `axes` [D, k] of the reference's features; empty if none are sealed.

    Raises BundleRefused if their types, shapes or values are invalid.
    """
    arrays = read_arrays(bundle.path, CALIBRATION)
    if "embedding_mean" not in arrays:
        return {}
    mean, axes = arrays["embedding_mean"], arrays.get("embedding_axes", np.empty(0))
    width, most = bundle.manifest.task.features, bundle.manifest.reference.samples
    sound = mean.dtype == axes.dtype == np.float64 and mean.shape == (width,) and axes.ndim == 2
    if not sound or len(axes) != width or not 0 < axes.shape[1] < most:
        raise BundleRefused(
            f"{bundle.path}: {CALIBRATION}: embedding_mean and embedding_axes must be float64 "
            f"[{width}] and [{width}, k] with k below {most}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(axes).all()):
        raise BundleRefused(f"{bundle.path}: {CALIBRATION}: the embedding must be finite.")
    return {"mean": mean, "axes": axes}


def read_signature(path: Path) -> bytes | None:
    """Return the content of the bundle's signature; None if it has none. Raises BundleRefused."""
    if not (path / SIGNATURE).exists():
        return None
    return _read_small(path, SIGNATURE, MAX_SIGNATURE_BYTES)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of the bundle in folder `path`, whose files are not checked.

    Raises BundleRefused.
    """
    if not path.is_dir():
        raise BundleRefused(
            f"There is no bundle folder at {path}. Set TIDEGATE_BUNDLE to one, or build the demo "
            "bundle with `tidegate demo`."
        )
    return parse_manifest(path, _read_small(path, MANIFEST, MAX_TEXT_BYTES))


def parse_manifest(path: Path | str, content: bytes) -> Manifest:
    """Return the manifest in `content`, which was read from the bundle at `path`.

    Raises BundleRefused if it is not exactly what was sealed.
    """
    try:
        return Manifest.from_file(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleRefused(f"{path}: {MANIFEST} is invalid: {where}: {first['msg']}.") from error
    except OtherFormat as error:
        raise BundleRefused(
            f"{path}: {MANIFEST}: {error}. Make the bundle again with the command that made it: "
            "`tidegate demo`, or `tidegate import` with the same options."
        ) from error
    except RecursionError as error:
        raise BundleRefused(f"{path}: {MANIFEST} is nested too deeply.") from error
    except ArithmeticError as error:  # a number out of range, such as 1e999
        raise BundleRefused(f"{path}: {MANIFEST} is invalid: {error}.") from error
    except ValueError as error:  # not JSON, not UTF-8, or not what was sealed
        raise BundleRefused(
            f"{path}: {MANIFEST} has changed since it was sealed: {error}."
        ) from error


def _read_small(path: Path, name: str, most_bytes: int) -> bytes:
    try:
        with (path / name).open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as error:
        raise BundleRefused(f"{path}: {name} cannot be read: {error.strerror}.") from error
    if len(content) > most_bytes:
        raise BundleRefused(f"{path}: {name} is larger than {most_bytes:,} bytes.")
    return content


def check_files(path: Path, manifest: Manifest) -> None:
    """Compare every file in folder `path` with the manifest. Raises BundleRefused."""
    try:
        _check_signature_file(path, manifest)
        _compare_files(path, manifest)
    except OSError as error:
        raise BundleRefused(
            f"{path}: {error.filename} cannot be read: {error.strerror}."
        ) from error


def _compare_files(path: Path, manifest: Manifest) -> None:
    if missing := [name for name in REQUIRED if name not in manifest.files]:
        raise BundleRefused(f"{path}: {MANIFEST} does not list {missing[0]}.")
    items = {item.relative_to(path).as_posix(): item for item in path.rglob("*")}
    if links := sorted(name for name, item in items.items() if item.is_symlink()):
        raise BundleRefused(f"{path}: {links[0]} is a link; a bundle must contain no links.")
    found = {name for name, item in items.items() if not item.is_dir()}
    if extra := sorted(found - manifest.files.keys() - {MANIFEST, SIGNATURE}):
        raise BundleRefused(f"{path}: {extra[0]} is not part of the bundle.")
    for name, file in manifest.files.items():
        if name not in found:
            raise BundleRefused(f"{path}: {name} is missing.")
        if (path / name).stat().st_size != file.bytes or sha256_of(path / name) != file.sha256:
            raise BundleRefused(f"{path}: {name} has changed since it was sealed.")


def _check_signature_file(path: Path, manifest: Manifest) -> None:
    """Raise BundleRefused unless the signature, if there is one, is a file of a size that is read.

    Its content is not checked here, because nothing but `bundle.signature_format` reads it.
    """
    if SIGNATURE in manifest.files:
        raise BundleRefused(f"{path}: {MANIFEST} must not list {SIGNATURE}.")
    with contextlib.suppress(FileNotFoundError):
        status = (path / SIGNATURE).lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleRefused(f"{path}: {SIGNATURE} is not a regular file.")
        if status.st_size > MAX_SIGNATURE_BYTES:
            raise BundleRefused(
                f"{path}: {SIGNATURE} is larger than {MAX_SIGNATURE_BYTES:,} bytes."
            )


def _read_labels(path: Path, manifest: Manifest) -> tuple[str, ...]:
    try:
        text = _read_small(path, LABELS, MAX_TEXT_BYTES).decode("utf-8")
        labels = tuple(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise BundleRefused(f"{path}: {LABELS} is not UTF-8.") from error
    if len(labels) != manifest.task.classes:
        raise BundleRefused(
            f"{path}: {LABELS} has {len(labels)} lines for {manifest.task.classes} classes."
        )
    return labels


def _read_gate(path: Path, manifest: Manifest) -> Gate:
    fit = manifest.gate
    own = ["fold_b_sizes"] if fit.own_threshold else []
    table = ["p_by_rank_b"] if fit.guarantee == "pac" else []
    arrays = read_arrays(path, CALIBRATION, ["scores_a", "combined_b", *own, *table])
    scores_a = arrays["scores_a"]
    shape = (len(fit.scores), fit.fold_a)
    if scores_a.dtype != np.float64 or scores_a.shape != shape:
        raise BundleRefused(f"{path}: {CALIBRATION}: scores_a must be float64 {list(shape)}.")
    for name, scores in zip(fit.scores, scores_a, strict=True):
        _check_fold(path, f"scores_a of {name}", scores, fit.fold_a)
    shared, *own_folds = _cut_fold_b(path, fit, arrays)
    # The shared fold may be empty if every class has its own.
    used = own_folds if len(own_folds) == manifest.task.classes else [shared, *own_folds]
    smallest = max(float(fold.p_by_rank[0]) for fold in used)
    if smallest > fit.alpha_reject:
        raise BundleRefused(
            f"{path}: {CALIBRATION}: the smallest possible p-value with fold B is {smallest:.3g}, "
            f"above alpha_reject {fit.alpha_reject}: the gate could never reject."
        )
    return Gate(
        folds_a={n: TailedFold.of(s) for n, s in zip(fit.scores, scores_a, strict=True)},
        combination=fit.combination,
        fold_b=shared,
        own_folds_b=dict(zip(fit.own_threshold, own_folds, strict=True)),
        alpha_reject=fit.alpha_reject,
        alpha_review=fit.alpha_review,
    )


def _cut_fold_b(path: Path, fit: GateFit, arrays: dict[str, NDArray[Any]]) -> Iterator[FinalFold]:
    """Yield the shared fold, then the folds of the classes that have their own."""
    combined, sizes = arrays["combined_b"], [fit.fold_b]
    if fit.own_threshold:
        cuts = arrays["fold_b_sizes"]
        if cuts.dtype != np.int64 or cuts.shape != (len(fit.own_threshold) + 1,):
            raise BundleRefused(
                f"{path}: {CALIBRATION}: fold_b_sizes must contain one int64 per fold."
            )
        sizes = cuts.tolist()
        if min(sizes) < 0 or sum(sizes) != fit.fold_b:
            raise BundleRefused(
                f"{path}: {CALIBRATION}: fold_b_sizes must sum to fold_b, {fit.fold_b}."
            )
    if combined.shape != (fit.fold_b,):
        raise BundleRefused(f"{path}: {CALIBRATION}: combined_b must be float64 [{fit.fold_b}].")
    tables = np.concatenate([marginal_p_values(n) for n in sizes])
    if fit.guarantee == "pac":
        tables = arrays["p_by_rank_b"]
        _check_table(path, tables, fit.fold_b + len(sizes))
    start = 0
    for index, n in enumerate(sizes):
        fold = combined[start : start + n]
        _check_fold(path, "combined_b", fold, n)
        yield FinalFold(fold, tables[start + index : start + index + n + 1])
        start += n


def _check_fold(path: Path, name: str, fold: NDArray[Any], size: int) -> None:
    if fold.dtype != np.float64 or fold.shape != (size,):
        raise BundleRefused(f"{path}: {CALIBRATION}: {name} must be float64 [{size}].")
    if not np.all(np.isfinite(fold)) or np.any(np.diff(fold) < 0):
        raise BundleRefused(f"{path}: {CALIBRATION}: {name} must be finite and ascending.")


def _check_table(path: Path, table: NDArray[Any], size: int) -> None:
    if table.dtype != np.float64 or table.shape != (size,):
        raise BundleRefused(f"{path}: {CALIBRATION}: p_by_rank_b must be float64 [{size}].")
    if not np.all((table > 0) & (table <= 1)):
        raise BundleRefused(f"{path}: {CALIBRATION}: p_by_rank_b must be above 0 and at most 1.")
