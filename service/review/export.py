"""Export kept images to one folder per class (torchvision's ImageFolder), to label or train on."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from tidegate.service.errors import ReviewUnreadable
from tidegate.service.review import sidecar
from tidegate.service.review.folder import open_day
from tidegate.service.review.sidecar import Sidecar

UNLABELLED = "unlabelled"
Skip = Literal["damaged", "removed", "unreadable"]
OnSkip = Callable[[Path, Skip, str], None]

_LABEL_BYTES = 120


def _ignore(path: Path, kind: Skip, reason: str) -> None:
    del path, kind, reason


def export(root: Path, out: Path, on_skip: OnSkip = _ignore) -> dict[str, int]:
    """Copy every kept image below `out`; return the number of images per folder.

    The folder is the id of the true class if feedback gave it, else `unlabelled/` with a subfolder
    for the predicted class. Existing copies are kept. `on_skip` is called for each sidecar that is
    damaged, cannot be read, or whose image was removed during the export.
    Raises ReviewUnreadable if nothing could be exported, or `out` cannot be written.
    """
    _check_apart(root, out)
    skipped: dict[Skip, int] = {}
    counts: dict[str, int] = {}
    for path in _sidecars(root):
        try:
            folder = _export_one(path, root, out)
        except _Skipped as skip:
            skipped[skip.kind] = skipped.get(skip.kind, 0) + 1
            on_skip(path, skip.kind, str(skip))
        else:
            counts[folder] = counts.get(folder, 0) + 1
    if counts:
        return counts
    if not skipped:
        raise ReviewUnreadable(f"There are no kept images in {root}.")
    raise ReviewUnreadable(f"None of the images in {root} can be exported: {in_words(skipped)}.")


def in_words(skipped: Mapping[Skip, int]) -> str:
    """Return a text with the number of skipped sidecars, by kind."""
    words: dict[Skip, str] = {
        "damaged": "with a damaged sidecar",
        "removed": "removed during the export",
        "unreadable": "that cannot be read",
    }
    return ", ".join(f"{count} {words[kind]}" for kind, count in skipped.items() if count)


class _Skipped(Exception):
    def __init__(self, kind: Skip, reason: str) -> None:
        super().__init__(reason)
        self.kind: Skip = kind


def _check_apart(root: Path, out: Path) -> None:
    try:
        inside = out.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ReviewUnreadable(f"{out}: {error}.") from error
    if inside:
        raise ReviewUnreadable(f"{out} is inside the review folder {root}: choose another folder.")


def _sidecars(root: Path) -> Iterator[Path]:
    """Yield files with a sidecar's name, the oldest day first; links are not followed."""
    try:
        with os.scandir(root) as days:
            folders = sorted(day.name for day in days if day.is_dir(follow_symlinks=False))
    except OSError as error:
        raise ReviewUnreadable(f"{root}: {error.strerror}.") from error
    for name in folders:
        with suppress(FileNotFoundError):
            yield from sorted((root / name).glob("*.json"))


def _export_one(path: Path, root: Path, out: Path) -> str:
    """Copy one image; return its folder. Raises _Skipped or ReviewUnreadable."""
    try:
        with _source(path) as (kept, source):
            folder = _folder(kept)
            _copy(source, out / folder / kept.file, root)
            return folder
    except FileNotFoundError as error:
        raise _Skipped("removed", "its image was removed during the export") from error
    except ValueError as error:
        raise _Skipped("damaged", str(error)) from error
    except OSError as error:
        raise _Skipped("unreadable", str(error.strerror)) from error


@contextmanager
def _source(path: Path) -> Iterator[tuple[Sidecar, BinaryIO]]:
    """Open an image by its sidecar. Raises OSError or ValueError."""
    day = open_day(path.parent.parent, path.parent.name)
    try:
        kept = sidecar.read(Sidecar, path.name, day)
        with open(sidecar.open_regular(kept.file, day), "rb") as source:
            yield kept, source
    finally:
        os.close(day)


def _folder(kept: Sidecar) -> str:
    if kept.true_class is not None:
        return f"{kept.true_class}"
    label = re.sub(r"[^\w -]+", "_", kept.label)[:60]
    label = label.encode()[:_LABEL_BYTES].decode(errors="ignore")  # file names have a byte limit
    return f"{UNLABELLED}/{kept.class_id}-{label}"


def _copy(source: BinaryIO, target: Path, root: Path) -> None:
    """Copy an image atomically. Raises ReviewUnreadable, or OSError if the source is unreadable."""
    image = source.read()
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve().is_relative_to(root.resolve()):
            raise ReviewUnreadable(f"{target.parent} is inside the review folder {root}.")
        if target.exists():
            return
        try:
            part.write_bytes(image)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ReviewUnreadable(f"{target.parent} cannot be written: {error.strerror}.") from error
