"""How a folder of images was divided, in words and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.data.training_data import SPLITS, SplitName, TrainingData, write
from tidegate.models.errors import BuildRefused

_MOST_BROKEN = 0.01  # of the files; more suggests that the data is wrong
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class Shares:
    """The part of the images in each split."""

    train: float = 0.60
    calibrate: float = 0.25
    test: float = 0.15

    def by_split(self) -> dict[SplitName, float]:
        """Return the shares by split. Raises BuildRefused unless they are above 0 and sum to 1."""
        shares: dict[SplitName, float] = {name: getattr(self, name) for name in SPLITS}
        if not (min(shares.values()) > 0 and abs(sum(shares.values()) - 1) < 1e-6):
            raise BuildRefused(
                f"The shares of train, calibrate and test are "
                f"{', '.join(f'{share:g}' for share in shares.values())}: each must be above 0, "
                "and their sum 1."
            )
        return shares


@dataclass(frozen=True, slots=True)
class Division:
    """The result of dividing a folder, and what was noticed on the way."""

    root: Path
    data: TrainingData
    shares: Shares | None  # None: the folder was divided already
    groups: str | None = None
    alike: tuple[tuple[Path, ...], ...] = ()  # nearly the same, and so in one split
    chained: int = 0  # images of chains of like images that no split could hold
    repeated: tuple[Path, ...] = ()  # left out, as another file has the same pixels
    broken: tuple[Path, ...] = ()  # left out, as they cannot be decoded
    notes: tuple[str, ...] = ()
    keep_alike: bool = True

    def report(self) -> list[str]:
        """Return sentences on what was done, for the console and the card."""
        counts = ", ".join(f"{name} {len(self.data.images(name))}" for name in SPLITS)
        lines = [f"{len(self.data.classes)} classes; images: {counts}."]
        if self.repeated:
            lines.append(
                f"{len(self.repeated)} files have the same pixels as another one and are left out: "
                f"{named(self.repeated, self.root)}."
            )
        if self.alike:
            lines.append(
                f"{sum(map(len, self.alike))} images are nearly the same as others, such as "
                f"{named(self.alike[0], self.root)}; each of the {len(self.alike)} groups is in "
                "one split."
            )
        if self.chained:
            lines.append(
                f"{self.chained} images form chains of like images that no split could hold, so "
                "they were divided into groups that are more alike. If they are frames of a few "
                "recordings, name these with --groups."
            )
        if self.broken:
            lines.append(
                f"{len(self.broken)} files cannot be decoded and are left out: "
                f"{named(self.broken, self.root)}."
            )
        return [*lines, *self.notes]

    def write(self, path: Path) -> None:
        """Write the division to a splits file, which `read` reads."""
        below = self.root
        more = {
            **asked_for(self.shares, self.groups, self.keep_alike),
            "nearly_the_same": [[name_below(p, below) for p in paths] for paths in self.alike],
            "repeated": [name_below(p, below) for p in self.repeated],
            "broken": [name_below(p, below) for p in self.broken],
        }
        write(path, self.root, self.data, more)


def asked_for(shares: Shares | None, groups: str | None, keep_alike: bool) -> dict[str, object]:
    """Return the options of a division as its file states them."""
    return {
        "shares": None if shares is None else shares.by_split(),
        "groups": groups,
        "keep_alike": keep_alike,
    }


def check_same(file: Path, asked: Mapping[str, object]) -> None:
    """Raise BuildRefused if the splits file states another value for an entry of `asked`."""
    stated = json.loads(file.read_bytes())
    differing = [
        f"{name} was {stated[name]} and is now {value}"
        for name, value in asked.items()
        if name in stated and stated[name] != value
    ]
    if differing:
        raise BuildRefused(
            f"{file} was made with other options: {'; '.join(differing)}. Give --fresh to divide "
            "the images again, or another folder with --run."
        )


def check_broken(broken: Sequence[Path], files: int, root: Path) -> None:
    """Raise BuildRefused if over 1 % of the files cannot be decoded."""
    if len(broken) > _MOST_BROKEN * files:
        raise BuildRefused(
            f"{len(broken)} of {files} files cannot be decoded as images: {named(broken, root)}; "
            f"at most {_MOST_BROKEN:.0%} may be. Remove or repair them."
        )


def named(paths: Sequence[Path], root: Path) -> str:
    """Return the first paths, and how many others there are."""
    first = ", ".join(name_below(path, root) for path in paths[:_MOST_NAMED])
    more = len(paths) - _MOST_NAMED
    return f"{first} and {more} more" if more > 0 else first


def name_below(path: Path, root: Path) -> str:
    """Return a path below `root`."""
    return path.relative_to(root).as_posix()
