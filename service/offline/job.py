"""A job's parts on disk: each is there whole or not at all, and a later run goes on after them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, TypeAdapter, ValidationError

from tidegate.service.errors import JobRefused
from tidegate.service.files import flush_folder, write_atomically
from tidegate.service.offline.rows import Row, counts, text_of
from tidegate.service.offline.sources import Item
from tidegate.service.offline.writers import Writer

_JOB = "job.json"


@dataclass(slots=True)
class Part:
    """A whole part: how many images, the first and the last, and their outcomes."""

    images: int
    first: str
    last: str
    outcomes: dict[str, int] = field(default_factory=dict)


_FACTS = TypeAdapter(tuple[NonNegativeInt, str, str, dict[str, NonNegativeInt]])  # of a part


class Job:
    """The folder of one job's parts, next to its result `.NAME.parts/`."""

    def __init__(self, out: Path, writer: Writer, identity: Mapping[str, Any], part_images: int):
        """`identity` is what the rows depend on; parts of another one are refused."""
        self.out = out
        self.folder = out.with_name(f".{out.name}.parts")
        self._writer = writer
        self.identity = {**identity, "images in a part": part_images}
        self.part_images = part_images
        self.parts: list[Part] = []

    def is_finished(self) -> bool:
        """Return whether the result of this very job is there, and read its outcomes."""
        if self._known.exists() or not self.out.exists():
            return False
        try:
            summary = _read(summary_file(self.out))
            if summary.get("job") != self.identity:
                return False
            part = _FACTS.validate_python([summary.get("images"), "", "", summary.get("outcomes")])
        except (OSError, ValueError):  # not there, or damaged
            return False
        self.parts = [Part(*part)]
        return True

    def begin(self, *, resume: bool, replace: bool) -> None:
        """Prepare the folder. Raises JobRefused if something is there that the user must decide."""
        goes_on = resume and self._known.exists()  # perhaps it was killed while it finished
        if self.out.is_dir():
            raise JobRefused(f"{self.out} is a folder: give --out a name of its own.")
        if self.out.exists() and not replace and not goes_on:
            raise JobRefused(f"{self.out} exists: give another --out, or --replace.")
        if not self.out.parent.is_dir():
            raise JobRefused(f"{self.out.parent} does not exist, or is not a folder.")
        if self.folder.exists() and not resume:
            if not replace:
                raise JobRefused(
                    f"{self.folder} has the parts of an unfinished job: go on with --resume, or "
                    "begin again with --replace."
                )
            shutil.rmtree(self.folder)
        if self._known.exists():
            self._check_same()
            self.parts = list(self._found())
            return
        if self.folder.exists():  # it was being removed: its parts may be of another job
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        write_atomically(self._known, json.dumps(self.identity, indent=1).encode())

    def remaining(self, items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        """Skip the images of the whole parts; yield the others with their index.

        Raises JobRefused if the images are not those that the parts were made of.
        """
        iterator = enumerate(items)
        for part in self.parts:
            # Only the names: an item of a table has the image.
            names = [text_of(item.name) for _, item in islice(iterator, part.images)]
            if len(names) != part.images or (names[0], names[-1]) != (part.first, part.last):
                raise JobRefused(
                    f"The images are not those of the unfinished job: a part of it goes from "
                    f"{part.first} to {part.last}. Begin again with --replace."
                )
        return iterator

    def write(self, rows: Sequence[Row], notes: bytes | None = None) -> None:
        """Add a part, and what was noted of it for the drift report."""
        part = Part(len(rows), rows[0]["path"], rows[-1]["path"], counts(rows))
        number = len(self.parts)
        write_atomically(self._file(number), self._writer.part(rows))
        if notes is not None:
            write_atomically(self._notes(number), notes)
        facts = [part.images, part.first, part.last, part.outcomes]
        write_atomically(self._facts(number), json.dumps(facts).encode())
        self.parts.append(part)

    def finish(self, summary: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
        """Join the parts into the result, write its summary next to it, and remove the parts."""
        joined = self.folder / f"joined{self.out.suffix}"
        files = [self._file(number) for number in range(len(self.parts))]
        self._writer.join(files, joined, metadata)
        with joined.open("rb") as file:
            os.fsync(file.fileno())
        text = json.dumps(summary, indent=1) + "\n"  # ASCII: a source's name need not be text
        write_atomically(summary_file(self.out), text.encode())
        joined.replace(self.out)
        flush_folder(self.out.parent)
        self._known.unlink()  # first: without it there is no unfinished job
        shutil.rmtree(self.folder)

    def notes_of_parts(self) -> list[Path]:
        """Return the files with the notes of the parts, in their order."""
        return [self._notes(number) for number in range(len(self.parts))]

    @property
    def outcomes(self) -> dict[str, int]:
        """Return how many images have each outcome."""
        total: dict[str, int] = {}
        for part in self.parts:
            for outcome, images in part.outcomes.items():
                total[outcome] = total.get(outcome, 0) + images
        return total

    def _check_same(self) -> None:
        try:
            known = _read(self._known)
        except ValueError as error:
            raise JobRefused(f"{self._known} is damaged: begin again with --replace.") from error
        for name, value in self.identity.items():
            if known.get(name) != value:
                raise JobRefused(
                    f"The unfinished job has another {name} ({known.get(name)}, not {value}): use "
                    "the same, or begin again with --replace."
                )

    def _found(self) -> Iterator[Part]:
        """Yield the parts that are whole, up to the first that is not."""
        number = 0
        while self._file(number).exists() and self._facts(number).exists():
            try:
                yield Part(*_FACTS.validate_json(self._facts(number).read_bytes()))
            except ValidationError:  # damaged: this part is made again
                return
            number += 1

    @property
    def _known(self) -> Path:
        """The file with the identity; while it exists, the job is not finished."""
        return self.folder / _JOB

    def _file(self, number: int) -> Path:
        return self.folder / f"part-{number:06}{self.out.suffix}"

    def _facts(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.json"

    def _notes(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.drift.npz"


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises OSError, or ValueError if it has none."""
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no JSON object")
    return content


def notes_file(out: Path) -> Path:
    """Return the path of the notes from which the drift report of a result is made."""
    return out.with_name(f"{out.name}.drift.npz")


def summary_file(out: Path) -> Path:
    """Return the path of a result's summary."""
    return out.with_name(f"{out.name}.summary.json")
