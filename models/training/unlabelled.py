"""Images without classes, from which a student learns its teacher's answers.

Whatever their folders are called, no label is taken from them, and none of them is calibrated or
tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.data.duplicates import like_one_of
from tidegate.models.data.folders import unlabelled
from tidegate.models.data.training_data import UNKNOWN, Labelled, TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.training.seen import Seen, look_at, same_pixels


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """Images to learn soft labels on, and sentences on those that are left out."""

    images: tuple[Path, ...]
    lines: tuple[str, ...]


def choose(
    folders: Sequence[Path],
    data: TrainingData,
    rejected: Callable[[Path], bool] = lambda path: False,
) -> Unlabelled:
    """Return the images below `folders` that the student may see.

    Left out are images that `data` has already; those that are nearly the same as one of calibrate
    or test, because the gate's guarantee and the test need images that training has not seen; and
    those that are `rejected`, because a teacher's answer to what it does not know teaches nothing.
    Raises BuildRefused if no image is left.
    """
    files = [Labelled(i.path, UNKNOWN) for f in folders for i in unlabelled("unlabelled", f).items]
    found, broken = look_at(files)
    once = [copies[0] for copies in same_pixels(found, data.classes)]
    train = look_at(data.train)[0]
    kept = look_at((*data.calibrate, *data.test, *data.held_out))[0]
    known = {image.mark.pixels for image in (*train, *kept)}
    new = [image for image in once if image.mark.pixels not in known]
    apart = _unlike(new, kept)
    left = tuple(image.path for image in apart if not rejected(image.path))
    if not left:
        raise BuildRefused(
            f"None of the {len(files)} images of --unlabelled can be used: {len(once) - len(new)} "
            f"are in --data, {len(new) - len(apart)} are nearly the same as a calibration or test "
            f"image, {len(apart)} are rejected by the teacher's gate."
        )
    lines = [f"{len(left)} images without classes: the student learns the teacher's answers."]
    for count, why in (
        (len(broken), "cannot be decoded"),
        (len(found) - len(once), "have the pixels of another one"),
        (len(once) - len(new), "are in --data already"),
        (len(new) - len(apart), "are nearly the same as a calibration or test image"),
        (len(apart) - len(left), "are rejected by the teacher's gate"),
    ):
        if count:
            lines.append(f"{count} images of --unlabelled {why} and are left out.")
    return Unlabelled(left, tuple(lines))


def _unlike(images: Sequence[Seen], known: Sequence[Seen]) -> list[Seen]:
    like = like_one_of([i.mark for i in known], [i.mark for i in images])
    return [image for at, image in enumerate(images) if at not in like]
