"""Which images to look at: a stratified sample of the review folder's ids.

DIR/<day>/<id>.json beside whatever else is there, `day` as YYYY-MM-DD.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from service.types import Decision

WINDOW = timedelta(days=1)
_MAX_SIDECARS = 20_000  # read for one request; some seconds
_MAX_SIDECAR_BYTES = 65_536
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class Reviewed(BaseModel):
    """What a sidecar says of one image; its other fields are for other readers."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    request_id: Annotated[str, Field(min_length=1, max_length=200)]
    decision: Decision
    class_id: NonNegativeInt
    time: AwareDatetime


def read_reviewed(root: Path, now: datetime) -> tuple[list[Reviewed], int]:
    """Return the images of the last day, and how many sidecars could not be read.

    Raises OSError when `root` cannot be listed.
    """
    since = now - WINDOW
    days = {since.date().isoformat(), now.date().isoformat()}
    folders = sorted(
        (f for f in root.iterdir() if _DAY.fullmatch(f.name) and f.name in days), reverse=True
    )
    found: list[Reviewed] = []
    unreadable = 0
    for path in islice(_sidecars(folders), _MAX_SIDECARS):
        try:
            reviewed = _read(path)
        except (OSError, ValidationError):
            unreadable += 1
            continue
        if since <= reviewed.time <= now:
            found.append(reviewed)
    return found, unreadable


def _sidecars(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.glob("*.json"))


def _read(path: Path) -> Reviewed:
    with path.open("rb") as file:  # cut short, a larger one is no JSON
        return Reviewed.model_validate_json(file.read(_MAX_SIDECAR_BYTES))


def stratified(images: Sequence[Reviewed], most: int, seed: str) -> list[Reviewed]:
    """Return at most `most` images, as many of each predicted class as of any other that has them.

    The same seed and images give the same sample, in whatever order they come.
    """
    by_class: dict[int, list[tuple[str, Reviewed]]] = defaultdict(list)
    for image in {image.request_id: image for image in images}.values():
        by_class[image.class_id].append((_lot(seed, image.request_id), image))
    # An image's place is its rank within its class, so ranks fill up class by class.
    ranked = (
        (rank, _lot(seed, str(class_id)), image)
        for class_id, members in by_class.items()
        for rank, (_, image) in enumerate(sorted(members, key=lambda member: member[0]))
    )
    return [image for *_, image in heapq.nsmallest(most, ranked, key=lambda place: place[:2])]


def _lot(seed: str, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def sampled(root: Path | None, most: int, seed: str, now: datetime) -> dict[str, Any]:
    """Return the request's section on samples; what is missing is said in `note`."""
    if root is None:
        return {"ids": [], "note": "no --review-dir was given"}
    try:
        images, unreadable = read_reviewed(root, now)
    except OSError as error:
        return {"ids": [], "note": f"the review folder cannot be read: {error.strerror}"}
    note = f"{unreadable} sidecars could not be read" if unreadable else ""
    chosen = stratified(images, most, seed)
    return {
        "out_of": len(images),
        "ids": [image.model_dump(mode="json") for image in chosen],
        "note": note,
    }
