"""Choose sample images for a request: a stratified sample of ids in the review folder.

The files are DIR/<day>/<id>.json with `day` as YYYY-MM-DD; other files are ignored.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from tidegate.models.retrain.alerts import WINDOWS, Subject
from tidegate.service.review.sidecar import open_regular
from tidegate.service.types import Decision

_READ = max(WINDOWS.values())
_MAX_SIDECARS = 20_000  # per request; takes some seconds
_MAX_SIDECAR_BYTES = 65_536


class Reviewed(BaseModel):
    """The fields of one image's sidecar that are used here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    decision: Decision
    class_id: Annotated[int, Field(ge=0, lt=10_000_000)]
    label: Annotated[str, Field(max_length=4096)] = ""
    model: str = ""
    version: str = ""
    digest: str = ""
    time: AwareDatetime

    def shows(self, subject: Subject) -> bool:
        """Return whether the subject's bundle answered this image; "" is unknown.

        The subject has the first digits of the digest, as the labels of metrics do.
        """
        names = ((self.model, subject.model), (self.version, subject.version))
        same_names = all(own == other or not own or not other for own, other in names)
        return same_names and (not self.digest or self.digest.startswith(subject.digest))


def read_reviewed(root: Path, now: datetime) -> tuple[list[Reviewed], int]:
    """Return the images of the last day, and the number of unreadable sidecars.

    Raises OSError if `root` cannot be listed.
    """
    since = now - _READ
    days = {since.date().isoformat(), now.date().isoformat()} & set(os.listdir(root))
    found: list[Reviewed] = []
    unreadable = 0
    for sidecar in islice(_sidecars(root, sorted(days, reverse=True)), _MAX_SIDECARS):
        if sidecar is None:
            unreadable += 1
        elif since <= sidecar.time <= now:
            found.append(sidecar)
    return found, unreadable


def _sidecars(root: Path, days: Sequence[str]) -> Iterator[Reviewed | None]:
    for day in days:
        try:
            folder = os.open(root / day, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # a link, a file, or removed since
            yield None
            continue
        try:
            for name in sorted(os.listdir(folder)):
                if name.endswith(".json"):
                    yield _read(name, folder)
        finally:
            os.close(folder)


def _read(name: str, folder: int) -> Reviewed | None:
    """Return a sidecar, or None if it is damaged, a link, a pipe, or removed since."""
    try:
        with open(open_regular(name, folder), "rb") as file:  # a longer file is cut, and so invalid
            return Reviewed.model_validate_json(file.read(_MAX_SIDECAR_BYTES))
    except (OSError, ValueError):  # pydantic's error is a ValueError
        return None


def stratified(images: Sequence[Reviewed], most: int, seed: str) -> list[Reviewed]:
    """Return at most `most` images, as evenly spread over the predicted classes as possible.

    The same seed and set of images give the same sample.
    """
    by_class: dict[int, list[tuple[str, Reviewed]]] = defaultdict(list)
    for image in {image.request_id: image for image in images}.values():
        by_class[image.class_id].append((_lot(seed, image.request_id), image))
    # Sorted by rank within the class, so that every class contributes before a class repeats.
    ranked = (
        (rank, _lot(seed, str(class_id)), image)
        for class_id, members in by_class.items()
        for rank, (_, image) in enumerate(sorted(members, key=lambda member: member[0]))
    )
    return [image for *_, image in heapq.nsmallest(most, ranked, key=lambda place: place[:2])]


def _lot(seed: str, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ReviewFolder:
    """The images from which one notification's requests draw samples, read once for all."""

    images: Sequence[Reviewed]
    note: str  # the reason if images are missing
    is_there: bool = True

    def of(self, subject: Subject, since: datetime) -> ReviewFolder:
        """Return the images that the subject's bundle has answered since then."""
        images = [i for i in self.images if i.time >= since and i.shows(subject)]
        return replace(self, images=images)

    def sampled(self, most: int, seed: str) -> dict[str, Any]:
        """Return a request's section on samples; `note` says why images are missing."""
        if not self.is_there:
            return {"ids": [], "note": self.note}
        chosen = stratified(self.images, most, seed)
        return {
            "out_of": len(self.images),
            "ids": [image.model_dump(mode="json") for image in chosen],
            "note": self.note,
        }


def read_review_folder(root: Path | None, now: datetime) -> ReviewFolder:
    """Read the review folder, if one is configured."""
    if root is None:
        return ReviewFolder([], "no --review-dir was given", is_there=False)
    try:
        images, unreadable = read_reviewed(root, now)
    except OSError as error:
        note = f"the review folder cannot be read: {error.strerror}"
        return ReviewFolder([], note, is_there=False)
    return ReviewFolder(images, f"{unreadable} sidecars could not be read" if unreadable else "")
